"""The table of the model's parts: what is asked of it by name is true of a real model."""

from collections import Counter

import pytest
from torch import nn

from sa2va_ray.models.build import build_model
from sa2va_ray.models.config import TrainableConfig
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.parts import (
    ADAPTERS_LABEL,
    MASK_DECODER,
    MODULES,
    NEW_ROWS_LABEL,
    PARTS,
    PLAN_LABELS,
    module_of,
    needs_masks,
    part_of,
    plan_label,
    trained_group,
)
from sa2va_ray.models.sa2va.processing_sa2va import NEW_TOKENS

ADAPTER = "lora_A.default.weight"


@pytest.fixture
def model_and_processor(demo_architecture):
    return build_model(demo_architecture)


def test_every_path_of_the_table_is_in_the_model_and_every_tensor_in_a_part(model_and_processor):
    model, _ = model_and_processor
    for part in PARTS:
        assert list(model.get_submodule(part.module).parameters()), part
        assert all(isinstance(model.get_parameter(name), nn.Parameter) for name in part.parameters)
        if part.layers:
            assert isinstance(model.get_submodule(part.layers_module), nn.ModuleList)
    held = Counter(part_of(name) for name in model.state_dict())
    assert held.keys() == set(PARTS)
    for unused in MASK_DECODER.unused:
        assert list(model.get_submodule(f"{MASK_DECODER.module}.{unused.removesuffix('.')}").parameters())


def test_groups_and_labels_of_a_model_with_adapters(model_and_processor):
    model, processor = model_and_processor
    trainable = TrainableConfig(lora_rank=2, lora_alpha=4, vision_encoder="lora", image_encoder="full")
    make_trainable(model, processor, trainable)
    trained: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        labels[plan_label(name)] += parameter.numel()
        if parameter.requires_grad:
            trained[trained_group(name)] += parameter.numel()
    assert set(labels) == set(PLAN_LABELS)
    assert trained["embeddings"] == labels[NEW_ROWS_LABEL] == 2 * len(NEW_TOKENS) * model.config.hidden_size
    assert trained["lora of language_model"] + trained["lora of vision_model"] == labels[ADAPTERS_LABEL]
    assert trained["image_encoder"] == labels["SAM 2 image encoder"]
    rest = {"projector", "text_hidden_fcs", "mask_decoder"}
    assert set(trained) - rest == {"embeddings", "lora of language_model", "lora of vision_model", "image_encoder"}


def test_adapters_are_watched_by_the_part_that_they_are_in():
    sam2 = "grounding_encoder.sam2_model.image_encoder.trunk.blocks.0.attn.qkv"
    assert trained_group(f"language_model.model.layers.0.self_attn.q_proj.{ADAPTER}") == "lora of language_model"
    assert trained_group(f"vision_model.encoder.layer.0.attention.q_proj.{ADAPTER}") == "lora of vision_model"
    assert trained_group(f"{sam2}.{ADAPTER}") == "lora of grounding_encoder"
    assert trained_group("mlp1.1.weight") == "projector"


def test_groups_that_need_masks_are_those_behind_the_language_model():
    need = ("text_hidden_fcs", "mask_decoder", "image_encoder", "lora of grounding_encoder")
    assert all(needs_masks(group) for group in need)
    others = ("projector", "embeddings", "lora of language_model", "lora of vision_model")
    assert not any(needs_masks(group) for group in others)


def test_tensors_are_counted_by_module_also_where_their_names_are_not_known():
    assert MODULES == ("vision_model", "mlp1", "language_model", "text_hidden_fcs", "mask_decoder", "grounding_encoder")
    assert module_of(f"{MASK_DECODER.module}.transformer.norm.weight") == "mask_decoder"
    assert module_of("language_model.visual.weight") == "language_model"
    assert module_of("optimizer.step") == "other"
