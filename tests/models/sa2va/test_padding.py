"""Right-padded batches: what stands behind a sequence changes nothing in it, with a mask or without one."""

import pytest
import torch

from sa2va_ray.data.batch import collate
from sa2va_ray.models.build import build_model
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import normalize_tiles
from tests.train.ranks import tiny_row


@pytest.fixture(scope="module")
def built(demo_architecture):
    model, processor = build_model(demo_architecture)
    return model.eval(), processor


@torch.no_grad()
def forward(model: Sa2VAModel, rows: list[dict]):
    batch = collate(rows)
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=normalize_tiles(batch.pixel_values),
        grounding_pixel_values=batch.grounding_pixel_values,
        logits_mask=batch.attention_mask,
    )


def test_a_short_sequence_beside_a_long_one_and_alone(built, monkeypatch):
    model, processor = built
    rows = [tiny_row(processor, 1), tiny_row(processor, 2, "It is [SEG]. " + "So. " * 20)]
    assert model.is_causal_throughout
    alone = [forward(model, [row]) for row in rows]
    together = forward(model, rows)
    monkeypatch.setattr(Sa2VAModel, "is_causal_throughout", False)
    masked = forward(model, rows)
    for found in (together, masked):
        torch.testing.assert_close(found.logits, torch.cat([each.logits for each in alone]), atol=1e-4, rtol=1e-4)
        expected = torch.cat([each.mask_logits for each in alone])
        torch.testing.assert_close(found.mask_logits, expected, atol=1e-4, rtol=1e-4)


def test_a_language_model_that_looks_back_a_little_only_keeps_its_mask(built):
    model, _ = built
    kinds = model.language_model.config.layer_types
    try:
        model.language_model.config.layer_types = ["sliding_attention", *kinds[1:]]
        assert not model.is_causal_throughout
    finally:
        model.language_model.config.layer_types = kinds
