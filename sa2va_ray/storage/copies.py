"""Files and folders between this machine and a store."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow.fs as pafs

from sa2va_ray.config import UserError
from sa2va_ray.storage.files import PARTIAL, exists
from sa2va_ray.storage.stores import resolve, translated
from sa2va_ray.storage.uris import is_local, join


def upload_file(file: Path, uri: str) -> None:
    """Copies a local file to `uri`, piece by piece."""
    filesystem, path = resolve(uri)

    def upload() -> None:
        filesystem.create_dir(os.path.dirname(path), recursive=True)
        pafs.copy_files(str(file), path, destination_filesystem=filesystem)

    translated(uri, upload)


def upload_folder(local_dir: Path, uri: str, last: str) -> None:
    """Copies a local folder to `uri`, the file named `last` after all others, so that its presence proves the rest."""
    files = sorted(p.relative_to(local_dir).as_posix() for p in local_dir.rglob("*") if p.is_file())
    for name in sorted(files, key=lambda name: name == last):
        upload_file(local_dir / name, join(uri, name))


def download_folder(uri: str, local_dir: Path) -> None:
    """Copies the folder at `uri` to `local_dir`, which appears only when it is complete."""
    filesystem, path = resolve(uri)
    incomplete = local_dir.with_name(f"{local_dir.name}.{uuid.uuid4().hex}{PARTIAL}")
    incomplete.mkdir(parents=True)
    try:
        translated(uri, lambda: pafs.copy_files(path, str(incomplete), source_filesystem=filesystem))
        shutil.rmtree(local_dir, ignore_errors=True)
        incomplete.rename(local_dir)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


def download_files(uri: str, names: Iterable[str], local_dir: Path) -> None:
    """Copies files below a folder, each named relative to it, to `local_dir`."""
    filesystem, path = resolve(uri)
    for name in names:
        target = local_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        translated(uri, partial(pafs.copy_files, f"{path}/{name}", str(target), source_filesystem=filesystem))


@contextmanager
def local_copy(uri: str, names: Iterable[str] | None = None) -> Iterator[Path]:
    """A file or folder itself where it is local, else a copy that is gone afterwards.

    Args:
        names: of the files that are wanted of a folder, each relative to it; all by default.

    Raises:
        UserError: there is nothing at `uri`, or the store does not answer.
    """
    check_exists(uri)
    filesystem, path = resolve(uri)
    if is_local(uri):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / Path(path).name
        if names is not None:
            download_files(uri, names, local)
        elif filesystem.get_file_info(path).is_file:
            translated(uri, partial(pafs.copy_files, path, str(local), source_filesystem=filesystem))
        else:
            download_folder(uri, local)
        yield local


def check_exists(uri: str) -> None:
    """Raises `UserError` where there is nothing at `uri`."""
    if not exists(uri):
        cure = _hub_hint(uri) or (
            " A job's last line, `result: ...`, has the address of what it made; base weights are brought by "
            "`sa2va-ray fetch`."
        )
        raise UserError(f"There is nothing at {uri}.{cure}")


def _hub_hint(uri: str) -> str:
    """What to do about a path that may have been meant for a model of the Hugging Face hub, `owner/name`."""
    parts = os.path.relpath(resolve(uri)[1]).split("/") if is_local(uri) else []
    if len(parts) != 2 or ".." in parts:
        return ""
    return (
        " It is read as a folder, as every model of a config is. If a model of the Hugging Face hub is meant, fetch it "
        f"first, sa2va-ray fetch source={'/'.join(parts)} out=FOLDER, and give that folder."
    )
