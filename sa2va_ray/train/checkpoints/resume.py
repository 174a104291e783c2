"""Where a run is resumed: at its newest sound checkpoint, or at the beginning."""

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import MANIFEST, DamagedError, verify_files
from sa2va_ray.models.checkpoint import (
    MODEL,
    OPTIMIZER,
    StoredCheckpoint,
    TrainState,
    list_checkpoints,
    read_stored_checkpoint,
    shard_files,
)
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.checkpoints.changes import SettingChange, check_setting_changes
from sa2va_ray.train.checkpoints.disks import check_room, ranks_on_disk
from sa2va_ray.train.collectives import from_rank_0, gather_objects
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.zero_state import WEIGHT
from sa2va_ray.train.errors import RunStoppedError


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint in a local folder, whose hashes were checked.

    Attributes:
        changes: settings that are not those that it was written with, all of them allowed.
    """

    state: TrainState
    folder: Path
    changes: list[SettingChange]

    def reader(self) -> Callable[[str, str], Tensor]:
        """(name of a parameter, `weight` or a moment) -> the whole tensor, float32 on the CPU, read when asked for."""
        files = [safe_open(file, "pt") for kind in (MODEL, OPTIMIZER) for file in shard_files(self.folder, kind)]
        places = {name: file for file in files for name in file.keys()}  # noqa: SIM118  it is no mapping

        def read(name: str, what: str) -> Tensor:
            key = name if what == WEIGHT else f"{what}.{name}"
            return places[key].get_tensor(key)

        return read


@contextmanager
def find_resume_point(config: TrainConfig, data_sha256: str) -> Iterator[ResumePoint | None]:
    """The newest checkpoint of the run whose content is what its manifest says; damaged ones are named and passed over.
    All ranks get the same one, and those that share a disk one copy, which is deleted in the end.

    Raises:
        RunStoppedError: it is of another data set, or of a config that does not fit; a disk has no room.
    """
    name = from_rank_0(lambda: f"resume-{uuid.uuid4().hex}")
    folder = Path(tempfile.gettempdir()) / name
    fetches = ranks_on_disk(folder.parent)[0] == dist.get_rank()
    try:
        uri = _fetch_newest(storage.join(config.runs_uri, config.name), folder, fetches)
        if uri is None:
            yield None
            return
        saved = read_stored_checkpoint(str(folder))
        dist.barrier()  # a rank that is about to refuse it deletes what the others are reading
        if dist.get_rank() == 0:
            LOGGER.info("resuming from %s: step %d of %d", uri, saved.state.step, saved.state.num_steps)
        yield ResumePoint(saved.state, folder, _check_changes(saved, config, data_sha256))
        dist.barrier()  # until all have read what is deleted now
    finally:
        if fetches:
            shutil.rmtree(folder, ignore_errors=True)


def _fetch_newest(run_uri: str, folder: Path, fetches: bool) -> str | None:
    """Finds the newest sound checkpoint, and copies it to `folder` on each rank that `fetches`. Returns its URI."""
    uris = from_rank_0(partial(list_checkpoints, run_uri))
    for uri in reversed(uris):
        saved = from_rank_0(partial(_read, uri))
        errors = [saved] if isinstance(saved, UserError) else _fetch_all(saved, folder, fetches)
        if not errors:
            return uri
        for error in errors:
            if not isinstance(error, DamagedError):
                raise RunStoppedError(str(error))
        if dist.get_rank() == 0:
            LOGGER.warning("checkpoint %s is passed over: %s", uri, errors[0])
    if uris and dist.get_rank() == 0:
        LOGGER.warning("none of the run's %d checkpoints is sound: it begins anew", len(uris))
    return None


def _read(uri: str) -> StoredCheckpoint | UserError:
    try:
        return read_stored_checkpoint(uri)
    except StorageError:
        raise  # it may be sound: to pass over it would throw work away
    except UserError as error:
        return error


def _fetch_all(saved: StoredCheckpoint, folder: Path, fetches: bool) -> list[UserError]:
    """Copies a checkpoint to each disk. Returns the errors of all ranks."""
    num_bytes = sum(file["size"] for file in saved.manifest["files"].values())
    check_room(folder.parent, num_bytes if fetches else 0, f"A copy of the checkpoint {saved.uri}")
    return [error for error in gather_objects(_fetch(saved, folder) if fetches else None) if error]


def _fetch(saved: StoredCheckpoint, folder: Path) -> DamagedError | None:
    shutil.rmtree(folder, ignore_errors=True)  # of a damaged one
    try:
        storage.download_files(saved.uri, [*saved.manifest["files"], MANIFEST], folder)
        verify_files(folder, saved.manifest)
    except DamagedError as error:
        return error
    except FileNotFoundError as error:
        return DamagedError(f"{error} has been deleted")
    return None


def _check_changes(saved: StoredCheckpoint, config: TrainConfig, data_sha256: str) -> list[SettingChange]:
    try:
        return check_setting_changes(saved, config, data_sha256)
    except UserError as error:
        raise RunStoppedError(str(error)) from None
