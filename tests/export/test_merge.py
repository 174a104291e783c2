"""Weights that are merged from files, in seconds: the whole export is in `test_run.py`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sa2va_ray.config import UserError
from sa2va_ray.export.merge import Trained
from sa2va_ray.manifest import write_manifest
from sa2va_ray.models.trained_weights import open_checkpoint

WEIGHT = "language_model.model.layers.0.mlp.down_proj.weight"
ADAPTER = "language_model.model.layers.0.mlp.down_proj.lora_{}.default.weight"
NORM = "grounding_encoder.sam2_model.sam_mask_decoder.mask_tokens.weight"


@pytest.mark.parametrize(
    ("change", "weight", "count"),
    [
        ({ADAPTER.format("A"): float("nan")}, WEIGHT, 128),  # a column of the product
        ({NORM: float("inf")}, NORM, 1),
        ({NORM: 3.4e38}, NORM, 1),  # which float32 has, and bfloat16 has not
    ],
)
def test_trained_values_that_are_not_finite_are_named_as_that(make_checkpoint, change, weight, count):
    """Not as a merge that went wrong, which the check of the written folder would call them."""
    folder: Path = make_checkpoint()
    for file in folder.glob("model-*.safetensors"):
        tensors = load_file(file)
        for name in change.keys() & tensors.keys():
            tensors[name].view(-1)[0] = change[name]
        save_file(tensors, file)
    write_manifest(folder, {})
    with open_checkpoint(str(folder)) as checkpoint:
        trained = Trained(checkpoint, [0])
        base = torch.zeros(128, 256) if weight == WEIGHT else torch.zeros(1)
        with pytest.raises(UserError, match=rf"{weight}, from model-.*, has {count} of .* not finite in bfloat16"):
            trained.merge(weight, base)
