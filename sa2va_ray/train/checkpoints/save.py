"""Saves the trained part of a run: each rank its share of the tensors, in the background, the manifest last.

Training waits for the local copy only. A checkpoint counts when its manifest is there, and rank 0 writes that when the
files of all ranks have arrived, so no order of failures leaves something that looks finished.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray.train
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sa2va_ray import manifest, storage
from sa2va_ray.manifest import MANIFEST
from sa2va_ray.models.checkpoint import CONFIG_FILE, MODEL, OPTIMIZER, STATE_FILE, TrainState, step_folder
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.checkpoints.disks import check_room
from sa2va_ray.train.checkpoints.lock import check_owner
from sa2va_ray.train.checkpoints.retention import delete_old_checkpoints, delete_remains
from sa2va_ray.train.collectives import from_rank_0
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.zero_state import MOMENTS, WEIGHT, gather_owned
from sa2va_ray.train.errors import RunStoppedError

T = TypeVar("T")

_POLL_S = 0.5
_LONGEST_PAUSE_S = 5.0


def save_checkpoint(engine, state: TrainState, config: TrainConfig, lock_owner: str) -> None:
    """Gathers, writes and reports a checkpoint `step_NNNNNNNN`. Every rank calls it at the same step.

    Raises:
        RunStoppedError: a rank's local disk has too little room; the message says how much is needed.
        OSError: the disk was full all the same.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    save_id = from_rank_0(lambda: uuid.uuid4().hex)  # tells the files of this save from those of one that was cut off
    # Not a TemporaryDirectory context: Ray deletes the folder when its upload has ended.
    folder = Path(tempfile.mkdtemp(prefix=_local_prefix(config)))
    _write_tensors(engine, folder, f"{rank + 1:05d}-of-{world_size:05d}")
    if rank == 0:
        (folder / STATE_FILE).write_text(json.dumps(state.model_dump(), indent=2) + "\n")
        (folder / CONFIG_FILE).write_text(config.to_yaml())
    manifest.write_manifest(folder, {"save_id": save_id}, _shard_manifest_name(rank))
    shard = CheckpointShard(folder, config, step_folder(state.step), rank, world_size, save_id, lock_owner)
    ray.train.report(
        {**state.metrics, "step": state.step, "samples_seen": state.samples_seen},
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_dir_name=shard.name,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=partial(_upload, shard=shard),
    )


def delete_local_remains(config: TrainConfig) -> None:
    """Deletes the shares that workers of this run which were killed, or could not send theirs, left on this machine's
    disk. Every rank calls it before any saves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_local_prefix(config)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _local_prefix(config: TrainConfig) -> str:
    """Of the folders for a run's shares among a machine's temporary files."""
    # Two stores may have a run of the same name, as of two demos on one machine, whose temporary files are the same.
    place = f"{os.environ.get('AWS_ENDPOINT_URL')} {storage.join(config.runs_uri, config.name)}"
    return f"sa2va-checkpoint-{hashlib.sha256(place.encode()).hexdigest()[:16]}-"


def _write_tensors(engine, folder: Path, part: str) -> None:
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for name, tensors in gather_owned(engine):
        weights[name] = tensors[WEIGHT]
        moments |= {f"{moment}.{name}": tensors[moment] for moment in MOMENTS}
    num_bytes = sum(tensor.nbytes for tensor in [*weights.values(), *moments.values()])
    try:
        check_room(folder.parent, num_bytes, "A checkpoint's share")
        save_file(weights, folder / f"{MODEL}-{part}.safetensors")
        save_file(moments, folder / f"{OPTIMIZER}-{part}.safetensors")
    except (RunStoppedError, OSError, SafetensorError) as error:
        shutil.rmtree(folder)  # a part of a checkpoint is of no use, and the disk is full
        if isinstance(error, RunStoppedError):
            raise
        raise OSError(
            f"A checkpoint's share of {num_bytes / 2**20:.1f} MiB could not be written to the local disk: {error}. "
            "Free some in the folder for temporary files, or set TMPDIR to a larger disk."
        ) from None


@dataclass(frozen=True)
class CheckpointShard:
    """The files of a checkpoint that one rank has written.

    Attributes:
        folder: where they lie on its disk.
        name: the name of the checkpoint.
        save_id: the same for all ranks, and another for each save.
    """

    folder: Path
    config: TrainConfig
    name: str
    rank: int
    world_size: int
    save_id: str
    lock_owner: str

    @property
    def run_uri(self) -> str:
        return storage.join(self.config.runs_uri, self.config.name)

    @property
    def uri(self) -> str:
        """Where the whole checkpoint is stored."""
        return storage.join(self.run_uri, self.name)


def _upload(local: ray.train.Checkpoint, name: str, shard: CheckpointShard) -> ray.train.Checkpoint:
    """The upload function that Ray calls in a thread of its own."""
    upload_shard(shard)
    filesystem = ray.train.get_context().get_storage().storage_filesystem  # Ray takes no other for the same place
    return ray.train.Checkpoint(storage.resolve(shard.uri)[1], filesystem=filesystem)


def upload_shard(shard: CheckpointShard) -> None:
    """Sends a rank's files to the store; rank 0 ends with the manifest, and leaves nothing there that it does not name.

    Raises:
        LockLostError: another job has taken the run over; what it saves is not touched.
        RuntimeError: the store does not answer, or another rank's files do not come.
    """
    uri, run = shard.uri, shard.config
    retry = partial(_retry, name=shard.name, patience_s=run.storage_patience_s)
    retry(lambda: check_owner(shard.run_uri, shard.lock_owner))
    if shard.rank == 0:  # what an earlier save of this step left is not valid any more
        retry(lambda: storage.delete_files(uri, [MANIFEST] if storage.exists(storage.join(uri, MANIFEST)) else []))
    retry(lambda: storage.upload_folder(shard.folder, uri, last=_shard_manifest_name(shard.rank)))
    if shard.rank == 0:
        files = _wait_for_all_ranks(shard, retry)
        retry(lambda: check_owner(shard.run_uri, shard.lock_owner))
        retry(lambda: storage.write_bytes(storage.join(uri, MANIFEST), manifest.to_json(files, {})))
        retry(lambda: _delete_unnamed(uri, files))
        LOGGER.info("%s: saved", uri)
        retry(lambda: delete_remains(shard.run_uri, uri))
        retry(lambda: delete_old_checkpoints(shard.run_uri, run.keep_checkpoints, run.keep_best, run.best_metric))


def _delete_unnamed(uri: str, files: Mapping[str, Any]) -> None:
    """Deletes what the manifest of a complete checkpoint does not name: the manifests of its shards, and what an
    earlier save of this step left."""
    storage.delete_files(uri, storage.list_files(uri).keys() - files.keys() - {MANIFEST})


def _wait_for_all_ranks(shard: CheckpointShard, retry: Callable[[Callable[[], Any]], Any]) -> dict[str, Any]:
    """The files of all ranks, once all of them have arrived. One that fails ends the run by itself; what is given up is
    one that sends nothing, not one that is slow."""
    patience_s, seen = shard.config.storage_patience_s, retry(partial(storage.list_files, shard.uri))
    deadline_s = time.monotonic() + patience_s
    files: dict[str, Any] = {}
    for rank in range(shard.world_size):
        while (found := retry(partial(_read_shard_manifest, shard.uri, rank))).get("save_id") != shard.save_id:
            if time.monotonic() > deadline_s:
                now = retry(partial(storage.list_files, shard.uri))
                if now == seen:
                    raise RuntimeError(
                        f"Nothing more of the shares of {shard.uri} has come in {patience_s:.0f} s; that of rank "
                        f"{rank} is not complete."
                    )
                seen, deadline_s = now, time.monotonic() + patience_s
            time.sleep(_POLL_S)
        files |= found["files"]
    return files


def _read_shard_manifest(uri: str, rank: int) -> dict[str, Any]:
    """Empty while it is not there. On a disk that the ranks share, a file that another one is writing has a part of its
    bytes, or none."""
    try:
        return json.loads(storage.read_bytes(storage.join(uri, _shard_manifest_name(rank))))
    except (FileNotFoundError, ValueError):
        return {}


def _shard_manifest_name(rank: int) -> str:
    return f"shard-{rank + 1:05d}.json"


def _retry(operation: Callable[[], T], name: str, patience_s: float) -> T:
    """Repeats a storage operation until it works.

    Raises:
        RuntimeError: it has not for `patience_s` since it first failed: gigabytes may take longer where all is well.
    """
    failed_s, pause_s = math.inf, 0.5
    while True:
        try:
            return operation()
        except StorageError as error:
            failed_s = min(failed_s, time.monotonic())
            waited_s = time.monotonic() - failed_s
            if waited_s > patience_s:
                raise RuntimeError(
                    f"Checkpoint {name} could not be stored in {waited_s:.0f} s, so the run ends: what it would do "
                    f"from here on could be lost. {error} What was logged as saved is in the store; start "
                    "the job again with resume=auto when the store answers."
                ) from None
            LOGGER.warning("checkpoint %s waits for the store since %.0f s: %s", name, waited_s, error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
