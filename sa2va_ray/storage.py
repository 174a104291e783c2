"""The one door to storage: everything that reads or writes an artefact takes a URI and goes through here.

A URI is a local path, `file:///path` or `s3://bucket/key`. S3 credentials and the endpoint come from the usual
environment variables (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_DEFAULT_REGION`), never
from a config, since configs are shown on the dashboard and kept with checkpoints.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import AfterValidator

from sa2va_ray.config import UserError

PARTIAL = ".partial"
"""Suffix of a local file that is being written."""

_CONNECT_TIMEOUT_S = 5
_READ_AHEAD_BYTES = 8 * 2**20
_MAX_ATTEMPTS = 4  # about 2 s of retries: long enough for a hiccup, short enough to tell the user soon


class StorageError(UserError):
    """The store does not answer, or refuses."""


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and path of a URI.

    Raises:
        UserError: a scheme other than a path, `file://` and `s3://`.
    """
    scheme, separator, path = uri.partition("://")  # not urlsplit: a key may hold "#" and "?"
    if not separator:
        return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    if scheme == "s3":
        return _s3_filesystem(), path.rstrip("/")
    if scheme == "file":
        return pafs.LocalFileSystem(), path
    raise UserError(f"{uri}: storage of kind '{scheme}' is not supported; use a path, file:// or s3://")


def join(uri: str, *names: str) -> str:
    return "/".join([uri.rstrip("/"), *names])


def absolute(uri: str) -> str:
    """A local path made absolute, so that other processes with another working directory find it; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


Uri = Annotated[str, AfterValidator(absolute)]
"""A config's path or URI: a path is made absolute where the config is read, since workers run in other folders."""


def is_local(uri: str) -> bool:
    """Whether a URI is a path of the machine on which it is resolved."""
    return "://" not in uri or uri.startswith("file://")


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    return _translated(uri, lambda: filesystem.get_file_info(path).type) != pafs.FileType.NotFound


def size_bytes(uri: str) -> int:
    """Size of a file. Raises like `read_bytes`."""
    filesystem, path = resolve(uri)
    info = _translated(uri, lambda: filesystem.get_file_info(path))
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(uri)
    return info.size


def read_bytes(uri: str) -> bytes:
    """Raises `FileNotFoundError` where there is no such file, `StorageError` where the store does not answer."""
    filesystem, path = resolve(uri)

    def read() -> bytes:
        with filesystem.open_input_file(path) as file:
            return file.readall()

    return _translated(uri, read)


def sha256(uri: str) -> str:
    """Of a file's content (64 hex characters), read piece by piece. Raises like `read_bytes`."""
    filesystem, path = resolve(uri)

    def read() -> str:
        with filesystem.open_input_stream(path, compression=None, buffer_size=_READ_AHEAD_BYTES) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return _translated(uri, read)


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file that is there with all its bytes or not at all."""
    filesystem, path = resolve(uri)
    is_local = isinstance(filesystem, pafs.LocalFileSystem)
    written = path + PARTIAL if is_local else path  # an object store shows an object when all of it has come

    def write() -> None:
        filesystem.create_dir(os.path.dirname(path), recursive=True)
        with filesystem.open_output_stream(written) as file:
            file.write(data)
        if is_local:
            filesystem.move(written, path)

    _translated(uri, write)


def list_files(uri: str) -> dict[str, int]:
    """Files below a folder: path relative to it -> size in bytes. Empty where there is no such folder."""
    return {info.path[len(_base(uri)) :]: info.size for info in _entries(uri, recursive=True) if info.is_file}


def size(uri: str) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is nothing."""
    filesystem, path = resolve(uri)
    info = _translated(uri, lambda: filesystem.get_file_info(path))
    return info.size if info.is_file else sum(list_files(uri).values())


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly in a folder, sorted."""
    return sorted(info.base_name for info in _entries(uri, recursive=False) if not info.is_file)


def upload_folder(local_dir: Path, uri: str, last: str) -> None:
    """Copies a local folder to `uri`, the file named `last` after all others, so that its presence proves the rest."""
    filesystem, path = resolve(uri)
    files = sorted(p.relative_to(local_dir).as_posix() for p in local_dir.rglob("*") if p.is_file())
    files.sort(key=lambda name: name == last)

    def upload() -> None:
        for name in files:
            filesystem.create_dir(os.path.dirname(f"{path}/{name}"), recursive=True)
            pafs.copy_files(str(local_dir / name), f"{path}/{name}", destination_filesystem=filesystem)

    _translated(uri, upload)


def download_folder(uri: str, local_dir: Path) -> None:
    """Copies the folder at `uri` to `local_dir`, which appears only when it is complete."""
    filesystem, path = resolve(uri)
    incomplete = local_dir.with_name(f"{local_dir.name}.{uuid.uuid4().hex}{PARTIAL}")
    incomplete.mkdir(parents=True)
    try:
        _translated(uri, lambda: pafs.copy_files(path, str(incomplete), source_filesystem=filesystem))
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
        _translated(uri, partial(pafs.copy_files, f"{path}/{name}", str(target), source_filesystem=filesystem))


def delete_files(uri: str, names: Iterable[str]) -> None:
    """Deletes files below a folder, each named relative to it."""
    filesystem, path = resolve(uri)
    for name in names:
        _translated(uri, partial(filesystem.delete_file, f"{path}/{name}"))


def delete_folder(uri: str) -> None:
    """Deletes all in a folder; nothing happens where there is none."""
    filesystem, path = resolve(uri)
    _translated(uri, lambda: filesystem.delete_dir_contents(path, missing_dir_ok=True))


def check_writable(uri: str) -> None:
    """Writes and deletes a probe below `uri`, so that a wrong endpoint, bucket or key is found before work begins.

    Raises:
        UserError: with the store's own reason.
    """
    filesystem, path = resolve(uri)
    probe = f".write-probe-{uuid.uuid4().hex}"
    write_bytes(join(uri, probe), b"probe")
    _translated(uri, lambda: filesystem.delete_file(f"{path}/{probe}"))


def _s3_filesystem() -> pafs.S3FileSystem:
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    return pafs.S3FileSystem(
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        connect_timeout=_CONNECT_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_MAX_ATTEMPTS),
    )


def _base(uri: str) -> str:
    return resolve(uri)[1].rstrip("/") + "/"


def _entries(uri: str, recursive: bool) -> list[pafs.FileInfo]:
    filesystem, path = resolve(uri)
    selector = pafs.FileSelector(path, recursive=recursive, allow_not_found=True)
    return _translated(uri, lambda: filesystem.get_file_info(selector))


def _translated(uri, operation):
    """Runs a storage operation; what the store refuses becomes a `StorageError` that says where and what to look at."""
    try:
        return operation()
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL", "the default of AWS") if uri.startswith("s3://") else "this machine"
        )
        reason = str(error).splitlines()[0]
        raise StorageError(
            f"Storage does not work at {uri} (endpoint: {endpoint}): {reason}. "
            "Check that the store runs, that the bucket exists and that the credentials in the environment are valid."
        ) from None
