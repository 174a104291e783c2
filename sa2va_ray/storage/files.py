"""What is read, written, listed and deleted at a URI."""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow.fs as pafs

from sa2va_ray.storage.stores import NotUtf8Error, resolve, translated
from sa2va_ray.storage.uris import is_local, join

PARTIAL = ".partial"
"""Suffix of a local file that is being written."""

_READ_AHEAD_BYTES = 8 * 2**20


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    return translated(uri, lambda: filesystem.get_file_info(path).type) != pafs.FileType.NotFound


def size_bytes(uri: str) -> int:
    """Size of a file. Raises like `read_bytes`."""
    filesystem, path = resolve(uri)
    info = translated(uri, lambda: filesystem.get_file_info(path))
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(uri)
    return info.size


def modified_s(uri: str) -> float:
    """When a file was written, by the store's clock: seconds since 1970. Raises like `read_bytes`."""
    filesystem, path = resolve(uri)
    info = translated(uri, lambda: filesystem.get_file_info(path))
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(uri)
    return info.mtime_ns / 1e9


def read_bytes(uri: str) -> bytes:
    """Raises `FileNotFoundError` where there is no such file, `StorageError` where the store does not answer."""
    filesystem, path = resolve(uri)
    if is_local(uri) and os.path.isdir(path):
        raise FileNotFoundError(f"{uri} is a folder")

    def read() -> bytes:
        try:
            with filesystem.open_input_file(path) as file:
                return file.readall()
        except NotADirectoryError:
            raise FileNotFoundError(f"{uri} lies below a file") from None

    return translated(uri, read)


def sha256(uri: str) -> str:
    """Hash of a file's content (64 hex characters), read piece by piece. Raises like `read_bytes`."""
    filesystem, path = resolve(uri)

    def read() -> str:
        with filesystem.open_input_stream(path, compression=None, buffer_size=_READ_AHEAD_BYTES) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return translated(uri, read)


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file that is there with all its bytes or not at all, also where several write it at once."""
    filesystem, path = resolve(uri)

    def write() -> None:
        try:
            filesystem.create_dir(os.path.dirname(path), recursive=True)
        except FileNotFoundError as error:  # to be told as what the storage refuses, not as a file that is missing
            raise OSError(str(error)) from None
        if isinstance(filesystem, pafs.LocalFileSystem):
            _replace(Path(path), data)
        else:  # an object store shows an object when all of it has come
            with filesystem.open_output_stream(path) as file:
                file.write(data)

    translated(uri, write)


def list_files(uri: str) -> dict[str, int]:
    """Files below a folder: path relative to it -> size in bytes. Empty where there is no such folder.

    Links to folders are followed, but for those back up the tree, which would never end.
    """
    if is_local(uri):
        path = resolve(uri)[1]
        return translated(uri, lambda: dict(_walk(path, "", _ancestors(path))))
    return {info.path[len(_base(uri)) :]: info.size for info in _entries(uri, recursive=True) if info.is_file}


def size(uri: str) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is nothing."""
    filesystem, path = resolve(uri)
    info = translated(uri, lambda: filesystem.get_file_info(path))
    return info.size if info.is_file else sum(list_files(uri).values())


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly in a folder, sorted."""
    return sorted(info.base_name for info in _entries(uri, recursive=False) if not info.is_file)


def delete_files(uri: str, names: Iterable[str]) -> None:
    """Deletes files below a folder, each named relative to it."""
    filesystem, path = resolve(uri)
    for name in names:
        translated(uri, partial(filesystem.delete_file, f"{path}/{name}"))


def delete_folder(uri: str) -> None:
    """Deletes all in a folder; nothing happens where there is none."""
    filesystem, path = resolve(uri)
    translated(uri, lambda: filesystem.delete_dir_contents(path, missing_dir_ok=True))


def delete_tree(uri: str, first: str | None = None) -> None:
    """Deletes a folder with all in it; nothing happens where there is none. Of a link to one the link alone goes.
    `delete_folder` leaves the folder itself, which may be where a disk is mounted.

    Args:
        first: name of a file in it that goes before all others, so that what is half deleted is seen as that.
    """
    filesystem, path = resolve(uri)
    if first and not (is_local(uri) and os.path.islink(path)):
        delete_files(uri, [first])

    def delete() -> None:
        with suppress(FileNotFoundError):
            filesystem.delete_dir(path)

    translated(uri, delete)


def check_writable(uri: str) -> None:
    """Writes and deletes a probe below `uri`, so that a wrong endpoint, bucket or key is found before work begins.

    Raises:
        UserError: with the store's own reason.
    """
    filesystem, path = resolve(uri)
    probe = f".write-probe-{uuid.uuid4().hex}"
    write_bytes(join(uri, probe), b"probe")
    translated(uri, lambda: filesystem.delete_file(f"{path}/{probe}"))


def _replace(path: Path, data: bytes) -> None:
    written = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        written.write_bytes(data)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def _ancestors(path: str) -> frozenset[tuple[int, int]]:
    """Device and number of a folder and of all above it, links resolved."""
    real = Path(os.path.realpath(path))  # not Path.resolve(), which raises for a link to itself
    existing = [each for each in (real, *real.parents) if each.exists()]
    return frozenset((info.st_dev, info.st_ino) for info in map(os.stat, existing))


def _walk(path: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Name below the first folder, and size, of the files in and below a local folder.

    Raises:
        OSError: a folder that cannot be read.
        NotUtf8Error: a name that is no text.
    """
    if not os.path.isdir(path):
        return
    with os.scandir(path) as entries:
        for entry in entries:
            name = prefix + _text(entry.name)
            if os.path.isfile(entry):  # not entry.is_file(), which raises for a link to itself
                yield name, entry.stat().st_size
            elif os.path.isdir(entry):
                info = entry.stat()
                if (info.st_dev, info.st_ino) not in above:
                    yield from _walk(entry.path, f"{name}/", above | {(info.st_dev, info.st_ino)})


def _text(name: str) -> str:
    try:
        return os.fsencode(name).decode()
    except UnicodeDecodeError:
        raise NotUtf8Error(
            "A folder that is to be listed has file names that are not UTF-8. Rename them, for example with convmv."
        ) from None


def _base(uri: str) -> str:
    return resolve(uri)[1].rstrip("/") + "/"


def _entries(uri: str, recursive: bool) -> list[pafs.FileInfo]:
    filesystem, path = resolve(uri)
    if is_local(uri) and os.path.isfile(path):
        return []
    selector = pafs.FileSelector(path, recursive=recursive, allow_not_found=True)
    return translated(uri, lambda: filesystem.get_file_info(selector))
