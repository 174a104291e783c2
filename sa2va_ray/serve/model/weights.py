"""Weights on the node: a replica loads exactly the model that the application was deployed with."""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import DamagedError, digest
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, read_model_manifest
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.predict.facts import read_model_facts
from sa2va_ray.serve.messages import Calibration
from sa2va_ray.telemetry import LOGGER

T = TypeVar("T")

_KEPT = 3  # models in a node's cache that no process uses, the last used
_IN_USE: list[IO[str]] = []
"""Open files, whose locks say that this process uses a model. They end with it, however it ends."""
_Copy = tuple[int, int]
"""What tells the copies of a model that follow each other in one place: number and time of the manifest's file."""


@dataclass(frozen=True)
class ModelSource:
    """The model that an application was deployed with.

    Attributes:
        sha256: digest of the exported folder at `uri` when the application was built: all replicas serve this one, and
            a model that is exported again to the same place is another.
        threshold, cleanup: the model's own, as it was calibrated then. They are no part of the hash, and a later
            calibration of the same weights comes with each question.
    """

    uri: str
    sha256: str
    threshold: float
    cleanup: CleanupConfig

    @property
    def calibration(self) -> Calibration:
        return Calibration(self.sha256, self.threshold, self.cleanup)

    @classmethod
    def read(cls, uri: str) -> "ModelSource":
        """
        Raises:
            UserError: no exported model there, or the store does not answer.
        """
        facts = read_model_facts(uri)
        assert facts.sha256, "read_model_facts refuses a folder without a manifest"
        return cls(uri, facts.sha256, facts.threshold, facts.cleanup)


def local_model(source: ModelSource, cache_dir: str, damaged: _Copy | None = None) -> str:
    """Folder with the model on this machine: where it lies if that is local, else a copy in the cache, which needs no
    store once it is there; one of which files are gone or cut off is fetched anew. Files are hashed when they are
    loaded.

    Args:
        damaged: a copy that is not good enough; another replica may have fetched a new one by now.

    Raises:
        UserError: what lies at the URI by now is another model.
    """
    if storage.is_local(source.uri):
        _check(source, source.uri)
        return source.uri
    folder = Path(cache_dir) / source.sha256
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder.with_suffix(".lock").open("w")
    _IN_USE.append(file)
    fcntl.flock(file, fcntl.LOCK_SH)
    # A lock of its own: the one above is shared for as long as a replica lives, so that none could have it alone.
    with folder.with_suffix(".fetch").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # one of the replicas that start together downloads
        if not _is_whole(folder) or _copy_in(folder) == damaged:
            _check(source, source.uri)
            _set_aside(folder)
            _delete_cut_off(folder)
            _delete_unused(folder.parent)
            storage.download_folder(source.uri, folder)
    os.utime(folder)
    _check(source, str(folder))
    return str(folder)


def load_on_node(source: ModelSource, cache_dir: str, load: Callable[[str], T]) -> T:
    """What `load` makes of `local_model`. A copy whose content is not what it was, as a machine that lost its power may
    leave it, is fetched anew once.

    Raises:
        UserError: as `local_model`, or `load`.
    """
    folder = local_model(source, cache_dir)
    copy = _copy_in(Path(folder))
    try:
        return load(folder)
    except DamagedError as error:
        if storage.is_local(source.uri):
            raise
        LOGGER.warning("the node's copy of a model is damaged: %s", error)
    return load(local_model(source, cache_dir, damaged=copy))


def _copy_in(folder: Path) -> _Copy | None:
    try:
        info = (folder / MODEL_MANIFEST).stat()
    except FileNotFoundError:
        return None
    return info.st_ino, info.st_mtime_ns


def _is_whole(folder: Path) -> bool:
    """Whether a copy is there, with all its files. In /tmp it may lose some of them to what clears that by age."""
    if not folder.is_dir():
        return False
    try:
        read_model_manifest(folder)
    except DamagedError as error:
        LOGGER.warning("the node's copy of a model is fetched anew: %s", error)
        return False
    return True


def _check(source: ModelSource, uri: str) -> None:
    found = digest(read_model_manifest(uri))
    if found != source.sha256:
        raise UserError(
            f"{uri} holds the model {found[:12]}, the application was deployed with {source.sha256[:12]}. "
            "`sa2va-ray deploy` serves the new one, as `serve deploy` does with another `revision`."
        )


def _set_aside(folder: Path) -> None:
    """Takes what is there of a copy away, to be deleted. Piece by piece its manifest might go before its weights, which
    another replica that starts would then take for a model without hashes."""
    if folder.is_dir():
        folder.rename(folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{storage.PARTIAL}"))


def _delete_cut_off(folder: Path) -> None:
    """What downloads of this model have left whose processes were killed. To be called by the one that downloads it."""
    for left in folder.parent.glob(f"{folder.name}.*{storage.PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)


def _delete_unused(cache_dir: Path) -> None:
    """All but the models that were used last, and none that a process uses, or is downloading."""
    models = (each for each in cache_dir.iterdir() if each.is_dir() and re.fullmatch(r"[0-9a-f]{64}", each.name))
    folders = sorted(models, key=lambda each: each.stat().st_mtime)
    unused = []
    with ExitStack() as locks:
        for folder in folders:
            file = locks.enter_context(folder.with_suffix(".lock").open("w"))
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unused.append(folder)
        for folder in unused[:-_KEPT]:
            shutil.rmtree(folder, ignore_errors=True)
