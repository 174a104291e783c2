"""Where a model is fetched from: the hub, or a folder. Both list their files, and give one at a time."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.utils import disable_progress_bars

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import sha256_of_file
from sa2va_ray.telemetry import LOGGER

_HUB = "hf://"
_HUB_ERRORS = (errors.HTTPError, errors.EntryNotFoundError, OSError, ValueError)  # the last: no address, no name
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_TWO_WAYS = (
    "A model of the hub is written owner/name or hf://owner/name, a folder ./owner/name, /path or s3://bucket/key. "
    "A branch or commit of the hub is revision=NAME."
)


@dataclass(frozen=True)
class File:
    """Attributes:
    sha256, git_sha1: of its content, as far as the source tells them. The hub has the first for large files and the
        second, git's own, for small ones.
    """

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


class FolderSource:
    """A folder, local or in a store."""

    version = None

    def __init__(self, uri: str):
        self.name = storage.absolute(uri)

    def files(self) -> list[File]:
        return [File(name, size) for name, size in storage.list_files(self.name).items()]

    @contextmanager
    def local(self, file: File) -> Iterator[Path]:
        """The file on this machine."""
        with storage.local_copy(storage.join(self.name, file.name)) as path:
            yield path


class HubSource:
    """A model of the Hugging Face hub. What was downloaded of a file is gone on with after an interruption."""

    def __init__(self, repo: str, revision: str | None):
        self.name = self._repo = repo
        self._endpoint = os.environ.get("HF_ENDPOINT")
        disable_progress_bars()
        try:
            api = huggingface_hub.HfApi(endpoint=self._endpoint)
            info = api.model_info(repo, revision=revision, files_metadata=True)
        except _HUB_ERRORS as error:
            raise UserError(_by_hand(repo, revision, error)) from None
        self.version = info.sha
        self._files = [
            File(
                each.rfilename,
                each.size or 0,
                each.lfs.sha256 if each.lfs else None,
                None if each.lfs else each.blob_id,
            )
            for each in info.siblings or []
        ]

    def files(self) -> list[File]:
        return self._files

    @contextmanager
    def local(self, file: File) -> Iterator[Path]:
        """The file, downloaded to `TMPDIR`, from where it goes when it has been used."""
        commit = hashlib.sha256(f"{self._repo}@{self.version}".encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"sa2va-fetch-{os.getuid()}-{commit}"
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            path = Path(
                huggingface_hub.hf_hub_download(
                    self._repo, file.name, revision=self.version, local_dir=folder, endpoint=self._endpoint
                )
            )
        except _HUB_ERRORS as error:
            raise UserError(_by_hand(self._repo, self.version, error)) from None
        yield path
        path.unlink()


def open_source(source: str, revision: str | None) -> HubSource | FolderSource:
    """What `source` names; the log says which of the two it was taken for.

    Raises:
        UserError: it is neither, or a folder with a `revision`.
    """
    if source.startswith(_HUB):
        repo = source.removeprefix(_HUB).removeprefix("models/")
        if not _ID.fullmatch(repo):
            raise UserError(f"source={source} names no model of the hub. {_TWO_WAYS}")
        return HubSource(repo, revision)
    if "://" in source and not source.startswith(("s3://", "file://")):
        raise UserError(f"source={source} is of a kind that is not fetched from. {_TWO_WAYS}")
    if storage.exists(source):
        if revision:
            raise UserError(f"source={source} is a folder, which has no revision. {_TWO_WAYS}")
        if _ID.fullmatch(source):
            LOGGER.info(
                "source=%s is taken for the folder of this name, not for a model of the hub. %s", source, _TWO_WAYS
            )
        return FolderSource(source)
    if not _ID.fullmatch(source):
        raise UserError(f"There is nothing at source={source}. {_TWO_WAYS}")
    LOGGER.info("source=%s is no folder here, and is taken for a model of the hub. %s", source, _TWO_WAYS)
    return HubSource(source, revision)


def check_content(path: Path, file: File, source: str) -> str:
    """Returns the SHA-256 of a file that has the size and content that the source tells.

    Raises:
        UserError: it has not.
    """
    found = sha256_of_file(path)
    is_right = path.stat().st_size == file.size
    if file.sha256:
        is_right &= found == file.sha256
    elif file.git_sha1:
        is_right &= _git_sha1(path) == file.git_sha1
    if not is_right:
        raise UserError(
            f"{file.name} did not arrive as {source} has it ({path.stat().st_size} of {file.size} bytes, or another "
            "hash). Start the same command again; what is complete is not fetched again."
        )
    return found


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _by_hand(repo: str, revision: str | None, error: Exception) -> str:
    at = f" --revision {revision}" if revision else ""
    return (
        f"{repo} cannot be fetched from the Hugging Face hub ({type(error).__name__}): check the name, the revision, "
        "the network and, for a gated model, HF_TOKEN. Without a network: on a machine that has one, run "
        f"`hf download {repo}{at} --local-dir FOLDER`, bring FOLDER here (config.json, the tokenizer's files and all "
        "*.safetensors with their index), and give source=FOLDER."
    )
