"""What `source` means: the files to be predicted, found by listing, before any is opened."""

import json
import posixpath
import re
from dataclasses import dataclass, field
from typing import Literal

import huggingface_hub
from fsspec.utils import glob_translate
from huggingface_hub.utils import disable_progress_bars

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SPLITS
from sa2va_ray.manifest import MANIFEST, read_manifest

_IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"),
}
_VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
_RUBBISH = {"__macosx", "thumbs.db", "desktop.ini"}
_HUB = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<inner>.*))?")
_WILDCARDS = re.compile(r"[*?\[]")

Kind = Literal["image", "video", "samples"]


@dataclass(frozen=True)
class Source:
    """One file: an image (DICOM included), a video, or a Parquet file of a prepared data set.

    Attributes:
        name: below the folder that was given; may tell a patient.
    """

    kind: Kind
    uri: str = field(repr=False)
    name: str = field(repr=False)

    @property
    def stem(self) -> str:
        """The name without the suffix of its kind; the last part of a DICOM UID is none."""
        stem, suffix = posixpath.splitext(self.name)
        return stem if suffix.lower() in _IMAGE_SUFFIXES | _VIDEO_SUFFIXES else self.name


def find_sources(source: str, split: str | None = None) -> list[Source]:
    """Files of an image, a folder (all below it), a glob (`*`, `?`, `[...]`, and `**` for folders of any depth), a
    video, or a prepared data set, sorted by name; a path, `s3://`, or `hf://datasets/owner/name[@revision][/path]`,
    which is fetched to the hub's cache (`HF_HOME`) that all machines of the cluster must see.

    In a folder, files that are neither image nor video by their suffix are left out.

    Args:
        split: of a prepared data set; None takes all.

    Raises:
        UserError: nothing there. `source` is not repeated: it may tell a patient.
    """
    source = _local_snapshot(source) if source.startswith("hf://") else storage.absolute(source)
    if (sources := _prepared(source, split)) is not None:
        return sources
    if split is not None:
        raise UserError(f"split={split} is for a prepared data set, and `source` is none: it has no {MANIFEST}.")
    folder, names = _list(source)
    sources = [
        Source(kind, storage.join(folder, name), name)
        for name in sorted(names)
        if not _is_rubbish(name) and (kind := _kind(name)) is not None
    ]
    if not sources:
        raise UserError(
            f"`source` has no image or video among its {len(names)} files, or does not exist. Check the path, that its "
            "disk is mounted on this machine, and that the files have suffixes: "
            + " ".join(sorted(_IMAGE_SUFFIXES | _VIDEO_SUFFIXES))
        )
    return sources


def _prepared(uri: str, split: str | None) -> list[Source] | None:
    """The Parquet files of a prepared data set; None where `uri` is something else."""
    if not storage.exists(storage.join(uri, MANIFEST)):
        return None
    if "num_rows" not in json.loads(storage.read_bytes(storage.join(uri, MANIFEST))):
        return None
    manifest = read_manifest(uri, what="prepared data set")
    splits = SPLITS if split is None else (split,)
    names = [name for name in sorted(manifest["num_rows"]) if name.startswith(tuple(f"{each}-" for each in splits))]
    if not names:
        raise UserError(f"The prepared data set has no samples in {' or '.join(splits)}. Choose another split.")
    return [Source("samples", storage.join(uri, name), name) for name in names]


def _list(uri: str) -> tuple[str, list[str]]:
    """A folder, and the names below it that are meant. What is there is meant itself, whatever its name looks like."""
    if storage.exists(uri):
        filesystem, path = storage.resolve(uri)
        if filesystem.get_file_info(path).is_file:
            folder, _, name = uri.rpartition("/")
            return folder, [name]
        return uri, list(storage.list_files(uri))
    if not _WILDCARDS.search(uri):
        return uri, []
    folder, pattern = _to_pattern(uri)
    return folder, [name for name in storage.list_files(folder) if pattern.match(name)]


def _to_pattern(uri: str) -> tuple[str, re.Pattern[str]]:
    """A glob as the folder that its files are in or below, and a pattern for their names below that. Parts of the path
    that exist are themselves, before they are patterns."""
    wildcard = _WILDCARDS.search(uri)
    assert wildcard
    folder = uri[: wildcard.start()].rpartition("/")[0]
    while "/" in (rest := uri[len(folder) + 1 :]):
        deeper = storage.join(folder, rest.partition("/")[0])
        if not storage.exists(deeper):
            break
        folder = deeper
    return folder, re.compile(glob_translate(rest))


def takes(source: str, uri: str) -> bool:
    """Whether `source`, read once more, would take a file at `uri`, too."""
    source = storage.absolute(source)
    if source.startswith("hf://") or storage.exists(source) or not _WILDCARDS.search(source):
        return False
    folder, pattern = _to_pattern(source)
    return uri.startswith(f"{folder}/") and bool(pattern.match(uri[len(folder) + 1 :]))


def _kind(name: str) -> Kind | None:
    """By suffix; a name without one, or a DICOM UID (digits and dots), counts as an image."""
    file = posixpath.basename(name)
    suffix = posixpath.splitext(file)[1].lower()
    if suffix in _VIDEO_SUFFIXES:
        return "video"
    is_image = suffix in _IMAGE_SUFFIXES or not suffix or file.replace(".", "").isdecimal()
    return "image" if is_image else None


def _is_rubbish(name: str) -> bool:
    """Hidden files, and what operating systems leave behind."""
    return any(part.startswith(".") or part.lower() in _RUBBISH for part in name.split("/"))


def _local_snapshot(uri: str) -> str:
    match = _HUB.fullmatch(uri)
    if not match:
        raise UserError("`source` on the hub is written hf://datasets/owner/name[@revision][/path].")
    disable_progress_bars()  # they show file names
    try:
        folder = huggingface_hub.snapshot_download(match["repo"], repo_type="dataset", revision=match["revision"])
    except (OSError, ValueError) as error:  # what the library raises for all that goes wrong
        raise UserError(
            f"The data set could not be fetched from the Hugging Face hub ({type(error).__name__}). Check its id, the "
            "revision, the network and, for a private one, HF_TOKEN. Without network only a data set that is already "
            "in the cache (HF_HOME) can be used; else download it elsewhere and give its folder."
        ) from None
    return storage.join(folder, match["inner"]) if match["inner"] else folder
