"""Saves the trained part of a ZeRO-3 run. Tensors are kept whole and by name, so a checkpoint does not depend on the
number of workers that wrote it."""

import json
import tempfile
from pathlib import Path

import deepspeed.utils
import pyarrow.fs as pafs
import ray.train
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.manifest import MANIFEST, write_manifest
from sa2va_ray.models.checkpoint import CONFIG_FILE, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, TrainState
from sa2va_ray.train.config import TrainConfig

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(engine, state: TrainState, config: TrainConfig) -> None:
    """Gathers, writes and reports a checkpoint `step_NNNNNNNN`. Every rank calls it at the same step; rank 0 writes.

    The upload goes on in the background: training waits for the local copy only.
    """
    weights, moments = _gather(engine)
    checkpoint = None
    if dist.get_rank() == 0:
        # Not a TemporaryDirectory context: Ray deletes the folder when its upload has ended.
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        save_file(weights, folder / MODEL_FILE)
        save_file(moments, folder / OPTIMIZER_FILE)
        (folder / STATE_FILE).write_text(json.dumps(state.model_dump(), indent=2) + "\n")
        (folder / CONFIG_FILE).write_text(config.to_yaml())
        write_manifest(folder, facts={})
        checkpoint = ray.train.Checkpoint.from_directory(folder)
    run_uri = storage.join(config.runs_uri, config.name)
    filesystem = ray.train.get_context().get_storage().storage_filesystem  # Ray takes no other for the same place
    ray.train.report(
        {**state.metrics, "step": state.step, "samples_seen": state.samples_seen},
        checkpoint=checkpoint,
        checkpoint_dir_name=f"step_{state.step:08d}",
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=lambda local, name: _upload(local, storage.join(run_uri, name), filesystem),
    )


def _gather(engine) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trained tensors and AdamW's moments by name, in float32 on the CPU. All ranks take part; rank 0 keeps them."""
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        gathered = {"": deepspeed.utils.safe_get_full_fp32_param(parameter)}
        for moment in _MOMENTS:
            gathered[moment] = deepspeed.utils.safe_get_full_optimizer_state(parameter, moment)
        if dist.get_rank() == 0:
            weights[name] = gathered[""].cpu().contiguous()
            moments |= {f"{moment}.{name}": gathered[moment].cpu().contiguous() for moment in _MOMENTS}
    return weights, moments


def _upload(local: ray.train.Checkpoint, uri: str, filesystem: pafs.FileSystem) -> ray.train.Checkpoint:
    """Ray's own upload has no order; this one sends the manifest last."""
    storage.upload_folder(Path(local.path), uri, last=MANIFEST)
    return ray.train.Checkpoint(storage.resolve(uri)[1], filesystem=filesystem)
