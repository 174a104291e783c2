"""Checkpoints without a training: the tiny model with adapters, its trained tensors moved by a seeded draw."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.run import export
from sa2va_ray.manifest import write_manifest
from sa2va_ray.models.build import PRECISIONS, build_model, weights_sha256
from sa2va_ray.models.checkpoint import CONFIG_FILE, STATE_FILE, TrainState
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.train.config import TrainConfig

TINY = ["jobs/configs/demo.yaml", "model.architecture.grounding_config.image_size=128"]
_ROOT = Path(__file__).parents[2]
MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """`make(*overrides, precision="fp32", moved=0.02, is_relative=False, **state)`: a checkpoint folder, whose trained
    values have moved by about `moved`, or by this share of each."""

    def make(
        *overrides: str, precision: str = "fp32", moved: float = 0.02, is_relative: bool = False, **state: Any
    ) -> Path:
        folder = tmp_path_factory.mktemp("run") / "step_00000007"
        folder.mkdir()
        config = TrainConfig.load([str(_ROOT / TINY[0]), *TINY[1:], *overrides])
        model, processor = build_model(config.model, PRECISIONS[precision])
        base_sha256 = weights_sha256(model.state_dict())
        torch.manual_seed(0)
        make_trainable(model.float(), processor, config.model.trainable)
        tensors = {
            name: parameter.detach()
            + moved * torch.randn_like(parameter) * ("lora_A" not in name) * (parameter.detach() if is_relative else 1)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        names = sorted(tensors)
        for rank in range(2):  # as two ranks would share them
            part = {name: tensors[name] for name in names[rank::2]}
            save_file(part, folder / f"model-{rank + 1:05d}-of-00002.safetensors")
        values = {
            "step": 7, "num_steps": 10, "epoch": 0, "step_in_epoch": 7, "missing_in_epoch": 0, "samples_seen": 28,
            "skipped_samples": 0, "num_workers": 2, "seed": 0, "precision": precision, "base_sha256": base_sha256,
            "metrics": {"train/loss": 1.5}, "data_sha256": "d" * 64, "git_commit": "unknown",
        }  # fmt: skip
        (folder / STATE_FILE).write_text(json.dumps(TrainState(**{**values, **state}).model_dump()))
        (folder / CONFIG_FILE).write_text(config.to_yaml())
        write_manifest(folder, {})
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A passed export of `checkpoint`, in several shards. Not to be changed."""
    out = tmp_path_factory.mktemp("exported") / "model"
    export(ExportConfig(checkpoint=str(checkpoint), out=str(out), name="tiny", max_shard_gib=2 / 1024))
    return out
