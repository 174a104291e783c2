"""Runs' folders as saves leave them, with small tensors and without a training."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.manifest import MANIFEST, write_manifest
from sa2va_ray.models.checkpoint import CONFIG_FILE, STATE_FILE, TrainState
from sa2va_ray.train.checkpoints.beat import LOCK_FILE
from sa2va_ray.train.checkpoints.save import CheckpointShard, upload_shard
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.zero_state import MOMENTS

ROOT = Path(__file__).parents[2]
NAMES = [f"layer_{number}.weight" for number in range(7)]
NUM_STEPS = 30
DATA_SHA256 = "d" * 64
_KINDS = [{"height": 128, "width": 128, "phrases": ["blood vessels"]}]
DATA_MANIFEST = {"files": {}, "counts": {"train": {"samples": 9}}, "sample_kinds": {"train": _KINDS, "val": _KINDS}}
"""Of a data set of one tile and one object in a sample."""
OWNER = "owner"


def run_config(runs_uri: Path | str, *settings: str) -> TrainConfig:
    own = ["data_uri=data", f"runs_uri={runs_uri}", "name=run", "save_every_steps=1000", "validation.every_steps=0"]
    return TrainConfig.load([str(ROOT / "jobs/configs/demo.yaml"), *own, *settings])


def tensors_of(step: int) -> dict[str, Tensor]:
    """Trained tensors and moments by the names that they have in the files."""
    generator = torch.Generator().manual_seed(step)
    names = [*NAMES, *(f"{moment}.{name}" for name in NAMES for moment in MOMENTS)]
    return {name: torch.randn(3, 5, generator=generator) for name in names}


def write_shard(folder: Path, step: int, config: TrainConfig, rank: int, world_size: int, **state: Any) -> Path:
    """A rank's files of a save, as `save_checkpoint` leaves them on its disk."""
    folder.mkdir(parents=True)
    tensors, part = tensors_of(step), f"{rank + 1:05d}-of-{world_size:05d}.safetensors"
    own = NAMES[rank::world_size]
    save_file({name: tensors[name] for name in own}, folder / f"model-{part}")
    moments = {f"{moment}.{name}": tensors[f"{moment}.{name}"] for name in own for moment in MOMENTS}
    save_file(moments, folder / f"optimizer-{part}")
    if rank == 0:
        values = {
            "step": step, "num_steps": NUM_STEPS, "epoch": 0, "step_in_epoch": step, "missing_in_epoch": 0,
            "samples_seen": 4 * step, "skipped_samples": 0, "num_workers": world_size, "seed": 0, "precision": "fp32",
            "metrics": {}, "base_sha256": "b" * 64, "data_sha256": DATA_SHA256, "git_commit": "unknown",
        }  # fmt: skip
        (folder / STATE_FILE).write_text(json.dumps(TrainState(**{**values, **state}).model_dump()))
        (folder / CONFIG_FILE).write_text(config.to_yaml())
    write_manifest(folder, {"save_id": f"{step} by {world_size}"}, f"shard-{rank + 1:05d}.json")
    return folder


def save(folder: Path, step: int, config: TrainConfig, world_size: int = 2, cut_off: bool = False, **state: Any) -> str:
    """Saves a step of the run as its ranks do, the last first. Returns the checkpoint's URI.

    Args:
        folder: the ranks' disk.
        cut_off: rank 0, which would have written the manifest, is lost.
    """
    name = f"step_{step:08d}"
    storage.write_bytes(f"{config.runs_uri}/{config.name}/{LOCK_FILE}", json.dumps({"owner": OWNER}).encode())
    for rank in reversed(range(cut_off, world_size)):
        local = write_shard(folder / f"{name}-{rank}-of-{world_size}", step, config, rank, world_size, **state)
        upload_shard(CheckpointShard(local, config, name, rank, world_size, f"{step} by {world_size}", OWNER))
    return f"{config.runs_uri}/{config.name}/{name}"


def damage(uri: str, kind: str) -> None:
    """Does to a checkpoint on the local disk what disks and people do."""
    folder = Path(uri)
    shard = folder / "model-00001-of-00002.safetensors"
    if kind == "a flipped bit":
        flipped = bytearray(shard.read_bytes())
        flipped[-1] ^= 1
        shard.write_bytes(flipped)
    elif kind == "a flipped bit of the optimizer":
        shard = folder / "optimizer-00002-of-00002.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    elif kind == "a cut shard":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif kind == "a lost shard":
        shard.unlink()
    else:
        file, how = kind.split(": ")
        data = (folder / file).read_bytes()
        ways = {
            "empty": b"", "cut": data[: len(data) // 2], "other": b'{"files": []}', "nothing": b'{"files": {}}',
            "deep": b"[" * 100_000, "written as neither JSON nor YAML": b"a: [",
            "written without a model": b"name: run",
        }  # fmt: skip
        if how in ("lost", "a folder"):
            (folder / file).unlink()
        if how == "a folder":
            (folder / file).mkdir()
        elif how == "lost":
            return
        else:
            (folder / file).write_bytes(ways[how])
        if how.startswith("written"):
            manifest = json.loads((folder / MANIFEST).read_text())
            manifest["files"][file] = {"sha256": hashlib.sha256(ways[how]).hexdigest(), "size": len(ways[how])}
            (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGES = [
    "a flipped bit",
    "a cut shard",
    "a lost shard",
    *(f"manifest.json: {how}" for how in ("empty", "cut", "other", "nothing", "deep", "a folder")),
    "train_state.json: written as neither JSON nor YAML",
    *(f"config.yaml: written {how}" for how in ("as neither JSON nor YAML", "without a model")),
    *(f"{file}: {how}" for file in ("train_state.json", "config.yaml") for how in ("empty", "cut", "lost")),
]
