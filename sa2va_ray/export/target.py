"""Where an export goes: what may be replaced, whether it fits, and how it gets there."""

import errno
import glob
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.export.merge import STORED_DTYPE
from sa2va_ray.manifest import parse_manifest
from sa2va_ray.models.build import read_architecture
from sa2va_ray.models.config import ModelConfig
from sa2va_ray.models.loading.place import build_empty_model
from sa2va_ray.models.model_manifest import MODEL_MANIFEST
from sa2va_ray.storage import PARTIAL
from sa2va_ray.telemetry import LOGGER

_GIB = 2**30
_OTHER_FILES_BYTES = 64 * 2**20  # tokenizer and the like


def check_target(uri: str) -> None:
    """Raises `UserError` where `uri` cannot be written, or holds what is not an exported model and nothing else."""
    path = storage.resolve(uri)[1]
    if storage.is_local(uri) and os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{uri} is a file, or a link to nothing; out= takes a folder.")
    present = storage.list_files(uri)
    if present:
        exported = set()
        if MODEL_MANIFEST in present:
            exported = {MODEL_MANIFEST, *_files_of(uri)}
        if foreign := present.keys() - exported:
            raise UserError(
                f"{uri} holds {len(foreign)} files that are not of an exported model (which names its files in "
                f"{MODEL_MANIFEST}); they are not deleted. Give another out=, or move them away. If an export to this "
                "place was cut off while it sent its files, they are what it left: delete them."
            )
    if not storage.is_local(uri):
        storage.check_writable(uri)


def _files_of(uri: str) -> list[str]:
    try:
        return list(parse_manifest(storage.read_bytes(storage.join(uri, MODEL_MANIFEST)))["files"])
    except ValueError as error:
        raise UserError(
            f"{uri} is not replaced: its {MODEL_MANIFEST} {error}, so that nobody can tell which files are the "
            "model's. Give another out=, or delete that folder."
        ) from None


@contextmanager
def staging_folder(uri: str) -> Iterator[Path]:
    """A local folder for a model that may not be seen yet: beside a local target, else among temporary files. What is
    still in it at the end is deleted."""
    target = Path(storage.resolve(uri)[1])
    parent = target.parent if storage.is_local(uri) else Path(tempfile.gettempdir())
    _tell_what_was_left(parent, target.name)
    folder = parent / f".{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:  # a file is above it, or a folder that this account may not write
        raise UserError(
            f"No folder can be made in {parent}: {error.strerror}. Set out= or, for temporary files, TMPDIR to a place "
            "where one can."
        ) from None
    try:
        yield folder
    except (OSError, SafetensorError) as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise UserError(
            f"The disk of {parent} became full while the model was written: something else writes there, too. Free "
            "some room, or set out= or, for temporary files, TMPDIR to a larger disk."
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell_what_was_left(parent: Path, name: str) -> None:
    """They are as large as a model, and nobody sees them. Another export to this place may be at work in one."""
    for left in parent.glob(f".{glob.escape(name)}.*{PARTIAL}"):
        LOGGER.warning("%s is there: if no other export to this place runs, one was killed. Delete the folder.", left)


def check_model_space(folder: Path, config: ModelConfig) -> None:
    """Raises `UserError` where the model that `config` builds does not fit into `folder`; seconds for any size."""
    architecture, _ = read_architecture(config)
    num_values = sum(tensor.numel() for tensor in build_empty_model(architecture).state_dict().values())
    check_space(folder, num_values * STORED_DTYPE.itemsize, "The exported model")


def check_fetch_space(uris: Iterable[str]) -> None:
    """Raises `UserError` where files and folders in a store do not fit among temporary files together."""
    num_bytes = sum(storage.size(uri) for uri in uris)
    if num_bytes:
        check_space(Path(tempfile.gettempdir()), num_bytes, "What is fetched from the store")


def check_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raises `UserError` where `num_bytes` and some more do not fit into `folder`. `what` begins the message."""
    needed, free = num_bytes + _OTHER_FILES_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{what} needs {needed / _GIB:.2f} GiB in {folder.absolute()}, where {free / _GIB:.2f} GiB are free. Free "
            "some, or set out= or, for temporary files, TMPDIR to a larger disk."
        )


def publish(folder: Path, uri: str) -> Path:
    """Puts a finished folder in the place of what `check_target` has allowed. Returns where it is on this machine."""
    if not storage.is_local(uri):
        storage.delete_folder(uri)
        storage.upload_folder(folder, uri, last=MODEL_MANIFEST)
        return folder
    target = Path(storage.resolve(uri)[1])
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target
