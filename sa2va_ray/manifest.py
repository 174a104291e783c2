"""SHA-256 manifests of folders. A manifest is written last and checked first: a folder without one is not an artefact.

The file is JSON: `{"files": {name: {"sha256", "size"}}, ...facts}`. The digest of an artefact is the SHA-256 of its
`files` part, so it names the content and nothing else.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from sa2va_ray import storage
from sa2va_ray.config import UserError

MANIFEST = "manifest.json"
_HASHED_AT_ONCE = 4  # files, each by one core: 16 GB take ten seconds otherwise


class DamagedError(UserError):
    """An artefact that is incomplete, or not any more what its manifest says."""


class _File(BaseModel):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


_FILES = TypeAdapter(dict[str, _File])


def write_manifest(folder: Path, facts: dict[str, Any], name: str = MANIFEST) -> str:
    """Hashes every file in a local folder and writes the manifest. Returns the digest (64 hex characters)."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / name]
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        hashes = list(pool.map(sha256_of_file, paths))
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256, "size": path.stat().st_size}
        for path, sha256 in zip(paths, hashes, strict=True)
    }
    (folder / name).write_bytes(to_json(files, facts))
    return digest({"files": files})


def to_json(files: dict[str, Any], facts: dict[str, Any]) -> bytes:
    """The manifest's own bytes. `files`: name -> `{"sha256", "size"}`."""
    return (json.dumps({"files": files, **facts}, indent=2) + "\n").encode()


def digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def read_manifest(uri: str, name: str = MANIFEST, what: str = "artefact") -> dict[str, Any]:
    """Reads a folder's manifest and checks that every file it names is there with the right size.

    Raises:
        DamagedError: no manifest or one that cannot be read, or a file that is missing or of another size.
    """
    try:
        data = storage.read_bytes(storage.join(uri, name))
    except FileNotFoundError:
        raise DamagedError(
            f"{uri} is not a complete {what}: it has no {name}, which is written last. "
            "Either the path is wrong, or the job that writes it is still at work, or that was cut off: run it again."
        ) from None
    try:
        manifest = parse_manifest(data)
    except ValueError as error:
        raise DamagedError(
            f"{uri} is damaged: its {name} of {len(data)} bytes {error}. Take another {what} or write this one again."
        ) from None
    present = storage.list_files(uri)
    for file, expected in manifest["files"].items():
        if present.get(file) != expected["size"]:
            raise DamagedError(
                f"{uri} is damaged: {file} has {present.get(file, 'no')} bytes, its manifest says {expected['size']}. "
                f"Take another {what} or write this one again."
            )
    return manifest


def parse_manifest(data: bytes) -> dict[str, Any]:
    """A manifest's content, from its bytes.

    Raises:
        ValueError: no manifest; the message goes on behind the file's name.
    """
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is empty or cut off, or no JSON") from None
    try:
        files = _FILES.validate_python(manifest["files"])
    except (ValidationError, KeyError, TypeError):
        raise ValueError("does not name files with their sizes and hashes") from None
    if any(PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts for file in files):
        raise ValueError("names files outside its folder")
    return manifest


def verify_files(folder: Path | str, manifest: dict[str, Any], names: Iterable[str] | None = None) -> None:
    """Hashes an artefact against its manifest, several files at a time, wherever it is; nothing is copied.

    Args:
        folder: a local folder or a URI.
        names: of the files to look at; all of the manifest's by default.

    Raises:
        DamagedError: the first file whose content differs.
    """
    files = list(manifest["files"] if names is None else names)
    places = [storage.join(str(folder), file) for file in files]
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        for file, place, found in zip(files, places, pool.map(_sha256_or_none, places), strict=True):
            if found is None:
                raise DamagedError(f"{place} is gone. Fetch it again.")
            if found != manifest["files"][file]["sha256"]:
                raise DamagedError(f"{place} does not have the content that the manifest names. Fetch it again.")


def _sha256_or_none(place: str) -> str | None:
    """None where there is no such file."""
    try:
        return storage.sha256(place)
    except FileNotFoundError:
        return None


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
