"""The one door to storage: everything that reads or writes an artefact takes a URI and goes through here.

A URI is a local path, `file:///path` or `s3://bucket/key`. S3 credentials and the endpoint come from the usual
environment variables (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_DEFAULT_REGION`), never
from a config, since configs are shown on the dashboard and kept with checkpoints.
"""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
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
        UserError: a URI that is empty, or of another scheme than `file://` and `s3://`.
    """
    if fault := _fault(uri):
        raise UserError(f"{uri or 'The path'}: {fault}")
    scheme, separator, path = uri.partition("://")
    if not separator:
        return pafs.LocalFileSystem(), _absolute(uri)
    return (_s3_filesystem(), path.rstrip("/")) if scheme == "s3" else (pafs.LocalFileSystem(), path)


def join(uri: str, *names: str) -> str:
    return "/".join([uri.rstrip("/"), *names])


def absolute(uri: str) -> str:
    """A local path made absolute, so that other processes with another working directory find it; a URI as it is."""
    return uri if "://" in uri else _absolute(uri)


def _absolute(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        user = path.partition("/")[0].removeprefix("~")
        raise UserError(f"~{user}: this machine has no home of a user '{user}'. Write the path in full.") from None


def _fault(uri: str) -> str:
    """What is wrong with the way in which a URI is written; empty for nothing."""
    scheme, separator, path = uri.partition("://")  # not urlsplit: a key may hold "#" and "?"
    if not (path if separator else uri).strip():
        return "is empty: give a path, file:///path or s3://bucket/key"
    if separator and scheme not in ("s3", "file"):
        return f"storage of kind '{scheme}' is not supported; use a path, file:// or s3://"
    if scheme == "s3" and path.startswith("/"):
        return "names no bucket: give s3://bucket/key"
    if scheme == "file" and separator and not path.startswith("/"):
        return "is no path in full: give file:///path"
    return ""


def _checked(uri: str) -> str:
    if fault := _fault(uri):
        raise ValueError(fault)
    return absolute(uri)


Uri = Annotated[str, AfterValidator(_checked)]
"""A config's path or URI, not empty: a path is made absolute where the config is read, since workers run in other
folders."""


def _kept(uri: str) -> str:
    if _SUBMITTED in os.environ and "://" not in uri and not uri.startswith(("/", "~")):
        raise ValueError(
            "is relative, and a submitted job runs in Ray's copy of --working-dir, which Ray deletes: what is written "
            f'there is lost. Give s3://bucket/{uri}, or where the cluster sees this disk "$PWD/{uri}", which your '
            "shell makes absolute"
        )
    return _checked(uri)


_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the process that `ray job submit` starts, and for no other

KeptUri = Annotated[str, AfterValidator(_kept)]
"""As `Uri`, of what a job writes, or what must not lie in a folder that is sent to the cluster: in a submitted job it
has to be absolute. What a job reads may come along with `--working-dir`, so a `Uri` may be relative there."""


def is_local(uri: str) -> bool:
    """Whether a URI is a path of the machine on which it is resolved."""
    return "://" not in uri or uri.startswith("file://")


def bucket_and_key(uri: str) -> tuple[str, str] | None:
    """The two parts of `s3://bucket/key`; None for any other URI."""
    scheme, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    return (bucket, key) if scheme == "s3" else None


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


def modified_s(uri: str) -> float:
    """When a file was written, by the store's clock: seconds since 1970. Raises like `read_bytes`."""
    filesystem, path = resolve(uri)
    info = _translated(uri, lambda: filesystem.get_file_info(path))
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

    return _translated(uri, read)


def sha256(uri: str) -> str:
    """Hash of a file's content (64 hex characters), read piece by piece. Raises like `read_bytes`."""
    filesystem, path = resolve(uri)

    def read() -> str:
        with filesystem.open_input_stream(path, compression=None, buffer_size=_READ_AHEAD_BYTES) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return _translated(uri, read)


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file that is there with all its bytes or not at all, also where several write it at once."""
    filesystem, path = resolve(uri)

    def write() -> None:
        filesystem.create_dir(os.path.dirname(path), recursive=True)
        if isinstance(filesystem, pafs.LocalFileSystem):
            _replace(Path(path), data)
        else:  # an object store shows an object when all of it has come
            with filesystem.open_output_stream(path) as file:
                file.write(data)

    _translated(uri, write)


def list_files(uri: str) -> dict[str, int]:
    """Files below a folder: path relative to it -> size in bytes. Empty where there is no such folder.

    Links to folders are followed, but for those back up the tree, which would never end.
    """
    if is_local(uri):
        path = resolve(uri)[1]
        return _translated(uri, lambda: dict(_walk(path, "", _ancestors(path))))
    return {info.path[len(_base(uri)) :]: info.size for info in _entries(uri, recursive=True) if info.is_file}


def check_outside(out: str, inputs: Mapping[str, str | None], key: str = "out", replaced: bool = False) -> None:
    """
    Args:
        inputs: by the name of their config key; None for what was not given.
        key: name of the config key of `out`.
        replaced: whether what is in `out` is deleted or written over, so that no input may lie in it.

    Raises:
        UserError: `out` is one of the inputs or lies in it, where it would be read with them at the next start; or an
            input lies in `out`. No path is repeated: it may tell a patient.
    """
    place = _place(out)
    for name, uri in inputs.items():
        other = _place(uri) if uri else None
        if place is None or other is None:
            continue
        if place == other or place.startswith(f"{other}/"):
            where = "is the same folder as" if place == other else "lies within"
            raise UserError(f"`{key}` {where} `{name}`, and would be read with it. Choose a folder beside it.")
        if replaced and other.startswith(f"{place}/"):
            raise UserError(f"`{name}` lies within `{key}`, which is replaced. Choose a folder beside it.")


def size(uri: str) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is nothing."""
    filesystem, path = resolve(uri)
    info = _translated(uri, lambda: filesystem.get_file_info(path))
    return info.size if info.is_file else sum(list_files(uri).values())


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly in a folder, sorted."""
    return sorted(info.base_name for info in _entries(uri, recursive=False) if not info.is_file)


def upload_file(file: Path, uri: str) -> None:
    """Copies a local file to `uri`, piece by piece."""
    filesystem, path = resolve(uri)

    def upload() -> None:
        filesystem.create_dir(os.path.dirname(path), recursive=True)
        pafs.copy_files(str(file), path, destination_filesystem=filesystem)

    _translated(uri, upload)


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


@contextmanager
def local_copy(uri: str, names: Iterable[str] | None = None) -> Iterator[Path]:
    """A file or folder itself where it is local, else a copy that is gone afterwards.

    Args:
        names: of the files that are wanted of a folder, each relative to it; all by default.

    Raises:
        UserError: there is nothing at `uri`, or the store does not answer.
    """
    if not exists(uri):
        raise UserError(f"There is nothing at {uri}.{_hub_hint(uri)}")
    filesystem, path = resolve(uri)
    if is_local(uri):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / Path(path).name
        if names is not None:
            download_files(uri, names, local)
        elif filesystem.get_file_info(path).is_file:
            _translated(uri, partial(pafs.copy_files, path, str(local), source_filesystem=filesystem))
        else:
            download_folder(uri, local)
        yield local


def _hub_hint(uri: str) -> str:
    """What to do about a path that may have been meant for a model of the Hugging Face hub, `owner/name`."""
    parts = os.path.relpath(resolve(uri)[1]).split("/") if is_local(uri) else []
    if len(parts) != 2 or ".." in parts:
        return ""
    return (
        " It is read as a folder, as every model of a config is. If a model of the Hugging Face hub is meant, fetch it "
        f"first, sa2va-ray fetch source={'/'.join(parts)} out=FOLDER, and give that folder."
    )


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
    """One client for each process and each setting of the environment: it keeps its connections, and they do not live
    through a fork."""
    settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _connect(os.getpid(), settings)


@lru_cache(maxsize=4)
def _connect(process_id: int, settings: frozenset[tuple[str, str]]) -> pafs.S3FileSystem:
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    return pafs.S3FileSystem(
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        connect_timeout=_CONNECT_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_MAX_ATTEMPTS),
    )


def _replace(path: Path, data: bytes) -> None:
    written = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        written.write_bytes(data)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def _place(uri: str) -> str | None:
    """Where a URI leads, links resolved, to be compared with others; None for what is no folder of ours."""
    if is_local(uri):
        return os.path.realpath(resolve(uri)[1])
    scheme, _, path = uri.partition("://")
    return f"s3://{os.path.normpath(path)}" if scheme == "s3" else None


def _ancestors(path: str) -> frozenset[tuple[int, int]]:
    """Device and number of a folder and of all above it, links resolved."""
    real = Path(path).resolve()
    existing = [each for each in (real, *real.parents) if each.exists()]
    return frozenset((info.st_dev, info.st_ino) for info in map(os.stat, existing))


def _walk(path: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Name below the first folder, and size, of the files in and below a local folder.

    Raises:
        OSError: a folder that cannot be read.
        UnicodeDecodeError: a name that is not UTF-8.
    """
    if not os.path.isdir(path):
        return
    with os.scandir(path) as entries:
        for entry in entries:
            name = prefix + os.fsencode(entry.name).decode()
            if os.path.isfile(entry):  # not entry.is_file(), which raises for a link to itself
                yield name, entry.stat().st_size
            elif os.path.isdir(entry):
                info = entry.stat()
                if (info.st_dev, info.st_ino) not in above:
                    yield from _walk(entry.path, f"{name}/", above | {(info.st_dev, info.st_ino)})


def _base(uri: str) -> str:
    return resolve(uri)[1].rstrip("/") + "/"


def _entries(uri: str, recursive: bool) -> list[pafs.FileInfo]:
    filesystem, path = resolve(uri)
    if is_local(uri) and os.path.isfile(path):
        return []
    selector = pafs.FileSelector(path, recursive=recursive, allow_not_found=True)
    return _translated(uri, lambda: filesystem.get_file_info(selector))


def _translated(uri, operation):
    """Runs a storage operation; what the store refuses becomes a `StorageError` that says where and what to look at."""
    try:
        return operation()
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        if is_local(uri):
            raise StorageError(
                f"Storage does not work at {uri}, on this machine: {reason}. Check the path, its permissions and the "
                "room on its disk."
            ) from None
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "the default of AWS")
        raise StorageError(
            f"Storage does not work at {uri} (endpoint: {endpoint}): {reason}. "
            "Check that the store runs, that the bucket exists and that the credentials in the environment are valid."
        ) from None
