"""SHA-256 manifests of folders. A manifest is written last and checked first: a folder without one is not an artefact.

The file is JSON: `{"files": {name: {"sha256", "size"}}, ...facts}`. The digest of an artefact is the SHA-256 of its
`files` part, so it names the content and nothing else.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from sa2va_ray import storage
from sa2va_ray.config import UserError

MANIFEST = "manifest.json"


def write_manifest(folder: Path, facts: dict[str, Any], name: str = MANIFEST) -> str:
    """Hashes every file in a local folder and writes the manifest. Returns the digest (64 hex characters)."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of_file(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / name
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
        UserError: no manifest, or a file that is missing or of another size.
    """
    try:
        manifest = json.loads(storage.read_bytes(storage.join(uri, name)))
    except FileNotFoundError:
        raise UserError(
            f"{uri} is not a complete {what}: it has no {name}, which is written last. "
            "Either the path is wrong or the job that wrote it was cut off; run that job again."
        ) from None
    present = storage.list_files(uri)
    for file, expected in manifest["files"].items():
        if present.get(file) != expected["size"]:
            raise UserError(
                f"{uri} is damaged: {file} has {present.get(file, 'no')} bytes, its manifest says {expected['size']}. "
                f"Take another {what} or write this one again."
            )
    return manifest


def verify_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Hashes a local copy of an artefact against its manifest.

    Raises:
        UserError: the first file whose content differs.
    """
    for file, expected in manifest["files"].items():
        if sha256_of_file(folder / file) != expected["sha256"]:
            raise UserError(f"{folder / file} does not have the content that the manifest names. Fetch it again.")


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
