"""The filesystem behind a URI, and what it refuses.

S3 credentials and the endpoint come from the usual environment variables (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_DEFAULT_REGION`), never from a config, since configs are shown on the
dashboard and kept with checkpoints.
"""

import errno
import os
import re
from functools import lru_cache
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from sa2va_ray.config import UserError
from sa2va_ray.storage.uris import is_local, path_of

_CONNECT_TIMEOUT_S = 5
_MAX_ATTEMPTS = 4  # about 2 s of retries: long enough for a hiccup, short enough to tell the user soon


_NO_BUCKET = re.compile(r"Bucket '(.+?)' not found")
"""In what pyarrow says of a write."""
_OF_THE_OBJECT = re.compile("ACCESS_DENIED|storage class")
"""In what pyarrow says of an object that these credentials may not read, or that lies in an archive (Glacier)."""
_FAILURE = re.compile(r"AWS Error .+? during \w+ operation(: Unable to parse ExceptionName: [\w.]+)?")
"""In what pyarrow says: how the store calls what is wrong. What follows may hold a path."""

_UNCONNECTED = (
    " This shell names no store (AWS_ENDPOINT_URL), so Amazon was asked. To reach the demo's or another one, connect "
    'the shell first: eval "$(sa2va-ray env)", and sa2va-ray env --help.'
)


class StorageError(UserError):
    """The store does not answer, or refuses."""


class SilentStoreError(StorageError):
    """A store does not answer, or not as one does. What it is asked for may be there all the same."""

    @property
    def failure(self) -> str:
        """How the store calls what is wrong; no path is in it."""
        found = _FAILURE.search(str(self))
        return found[0] if found else "no answer"


class NotUtf8Error(UserError):
    """A name of a file that is no text, so that no table or report could hold it."""


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and path of a URI. Raises as `path_of` does."""
    path = path_of(uri)
    return (pafs.LocalFileSystem() if is_local(uri) else _s3_filesystem()), path


def translated(uri, operation):
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
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"This machine's disk is full, or its quota used up, to which {uri} was copied: {reason}. Make room "
                "there, or set TMPDIR, or the endpoint's cache_dir, to a larger disk."
            ) from None
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "the default of AWS")
        if bucket := _NO_BUCKET.search(reason):
            raise StorageError(
                f"There is no bucket s3://{bucket[1]} in the store (endpoint: {endpoint}). Check how it is written, or "
                "make it by the store's own tools. That of `make demo` is s3://sa2va."
            ) from None
        kind = StorageError if _OF_THE_OBJECT.search(reason) else SilentStoreError
        raise kind(
            f"Storage does not work at {uri} (endpoint: {endpoint}): {reason}. "
            "Check that the store runs, that the bucket exists and that the credentials in the environment are valid."
            f"{_UNCONNECTED if 'AWS_ENDPOINT_URL' not in os.environ else ''}"
        ) from None


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
