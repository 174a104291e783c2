"""Where a run goes on: its newest sound checkpoint, or the beginning."""

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import MANIFEST, DamagedError, verify_files
from sa2va_ray.models.checkpoint import (
    MODEL,
    OPTIMIZER,
    Saved,
    TrainState,
    list_checkpoints,
    read_saved,
    shard_files,
)
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.checkpoints.changes import Change, check_changes
from sa2va_ray.train.checkpoints.disks import check_room, gathered, ranks_on_disk
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.zero_state import WEIGHT
from sa2va_ray.train.step import AgreedError

T = TypeVar("T")


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint in a local folder, whose hashes were checked.

    Attributes:
        changes: settings that are not those that it was written with, all of them allowed.
    """

    state: TrainState
    folder: Path
    changes: list[Change]

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
        AgreedError: it is of another data set, or of a config with which it cannot be gone on; a disk has no room.
    """
    name = [f"resume-{uuid.uuid4().hex}"]
    dist.broadcast_object_list(name, src=0)
    folder = Path(tempfile.gettempdir()) / name[0]
    fetches = ranks_on_disk(folder.parent)[0] == dist.get_rank()
    try:
        uri = _fetch_newest(storage.join(config.runs_uri, config.name), folder, fetches)
        if uri is None:
            yield None
            return
        saved = read_saved(str(folder))
        LOGGER.info("resuming from %s: step %d of %d", uri, saved.state.step, saved.state.num_steps)
        yield ResumePoint(saved.state, folder, _agreed_changes(saved, config, data_sha256))
        dist.barrier()  # until all have read what is deleted now
    finally:
        if fetches:
            shutil.rmtree(folder, ignore_errors=True)


def _fetch_newest(run_uri: str, folder: Path, fetches: bool) -> str | None:
    """The checkpoint that each rank that `fetches` has fetched to its `folder`."""
    uris = _of_rank_0(list_checkpoints, run_uri)
    for uri in reversed(uris):
        saved = _of_rank_0(_read, uri)
        errors = [saved] if isinstance(saved, UserError) else _fetch_all(saved, folder, fetches)
        if not errors:
            return uri
        for error in errors:
            if not isinstance(error, DamagedError):
                raise AgreedError(str(error))
        if dist.get_rank() == 0:
            LOGGER.warning("checkpoint %s is passed over: %s", uri, errors[0])
    if uris and dist.get_rank() == 0:
        LOGGER.warning("none of the run's %d checkpoints is sound: it begins anew", len(uris))
    return None


def _of_rank_0(read: Callable[[str], T], uri: str) -> T:
    answer = [read(uri) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(answer, src=0)
    return cast(T, answer[0])


def _read(uri: str) -> Saved | UserError:
    try:
        return read_saved(uri)
    except StorageError:
        raise  # it may be sound: to pass over it would throw work away
    except UserError as error:
        return error


def _fetch_all(saved: Saved, folder: Path, fetches: bool) -> list[UserError]:
    """Copies a checkpoint to each disk. Returns what went wrong with it, on any."""
    num_bytes = sum(file["size"] for file in saved.manifest["files"].values())
    check_room(folder.parent, num_bytes if fetches else 0, f"A copy of the checkpoint {saved.uri}")
    return [error for error in gathered(_fetch(saved, folder) if fetches else None) if error]


def _fetch(saved: Saved, folder: Path) -> DamagedError | None:
    shutil.rmtree(folder, ignore_errors=True)  # of a damaged one
    try:
        storage.download_files(saved.uri, [*saved.manifest["files"], MANIFEST], folder)
        verify_files(folder, saved.manifest)
    except DamagedError as error:
        return error
    except FileNotFoundError as error:
        return DamagedError(f"{error} has been deleted")
    return None


def _agreed_changes(saved: Saved, config: TrainConfig, data_sha256: str) -> list[Change]:
    try:
        return check_changes(saved, config, data_sha256)
    except UserError as error:
        raise AgreedError(str(error)) from None
