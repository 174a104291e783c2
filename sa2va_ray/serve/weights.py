"""Weights on the node: a replica loads exactly the model that the application was deployed with."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.models.state_dict import MODEL_MANIFEST

_KEPT = 3  # models in a node's cache, the newest


@dataclass(frozen=True)
class ModelSource:
    """Attributes:
    sha256: digest of the exported folder at `uri` when the application was built: all replicas serve this one, and a
        model that is exported again to the same place is another.
    """

    uri: str
    sha256: str

    @classmethod
    def read(cls, uri: str) -> "ModelSource":
        """
        Raises:
            UserError: no exported model there, or the store does not answer.
        """
        return cls(uri, digest(read_manifest(uri, MODEL_MANIFEST, what="exported model")))


def local_model(source: ModelSource, cache_dir: str) -> str:
    """Folder with the model on this machine: where it lies if that is local, else a copy in the cache, which needs no
    store once it is there. Its files are hashed when they are loaded.

    Raises:
        UserError: what lies at the URI by now is another model.
    """
    if not source.uri.startswith("s3://"):
        _check(source, source.uri)
        return source.uri
    folder = Path(cache_dir) / source.sha256
    with _lock(folder):
        if not (folder / MODEL_MANIFEST).is_file():
            _check(source, source.uri)
            storage.download_folder(source.uri, folder)
            _delete_old(folder.parent)
    _check(source, str(folder))
    return str(folder)


def _check(source: ModelSource, uri: str) -> None:
    found = digest(read_manifest(uri, MODEL_MANIFEST, what="exported model"))
    if found != source.sha256:
        raise UserError(
            f"{uri} holds the model {found[:12]}, the application was deployed with {source.sha256[:12]}. Deploy it "
            "again to serve the new one."
        )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Held by one process of the machine at a time: replicas that start together download once."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _delete_old(cache_dir: Path) -> None:
    """All but the newest. A model that a replica has mapped into memory stays there until that ends."""
    folders = sorted((each for each in cache_dir.iterdir() if each.is_dir()), key=lambda each: each.stat().st_mtime)
    for folder in folders[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
