"""What `source` means: the files to be predicted, found by listing, before any is opened."""

import json
import posixpath
import re
from dataclasses import dataclass, field
from typing import Literal

from fsspec.utils import glob_translate

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SPLITS
from sa2va_ray.hub import HOW_WRITTEN, is_on_hub, locate
from sa2va_ray.images.files import IMAGE_KINDS, count_suffixes, is_hidden, is_rubbish, kind_of, suffix_of, suffixes_of
from sa2va_ray.manifest import MANIFEST, read_manifest
from sa2va_ray.patterns import PathPattern
from sa2va_ray.telemetry import LOGGER

_KINDS = IMAGE_KINDS | {"DICOM", "video"}
_WILDCARDS = re.compile(r"[*?\[]")

Kind = Literal["image", "video", "samples"]


@dataclass(frozen=True)
class SourceFile:
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
        return posixpath.splitext(self.name)[0] if kind_of(self.name) in _KINDS else self.name


def find_sources(source: str, split: str | None = None) -> list[SourceFile]:
    """Files of an image, a folder (all below it), a glob (`*`, `?`, `[...]`, and `**` for folders of any depth), a
    video, or a prepared data set, sorted by name; a path, a URI, or one of the hub, as `locate` takes it.

    In a folder, files that are neither image nor video by their suffix are left out, and counted in the log.

    Args:
        split: of a prepared data set; None takes all.

    Raises:
        UserError: nothing there. `source` is not repeated: it may tell a patient.
    """
    source = locate(source)
    if (sources := _prepared(source, split)) is not None:
        return sources
    if split is not None:
        raise UserError(f"split={split} is for a prepared data set, and `source` is none: it has no {MANIFEST}.")
    folder, names = _list(source)
    names = [name for name in sorted(names) if not is_hidden(name) and not is_rubbish(name)]
    sources = [
        SourceFile(kind, storage.join(folder, name), name) for name in names if (kind := _kind(name)) is not None
    ]
    if not sources:
        raise UserError(
            f"`source` has no image or video among its {len(names)} files, or does not exist. Check the path, that its "
            "disk is mounted on this machine, and that the files have suffixes: "
            f"{' '.join(suffixes_of(_KINDS))}. {HOW_WRITTEN}"
        )
    if left_out := count_suffixes(name for name in names if _kind(name) is None):
        LOGGER.info("files left out: %s", ", ".join(f"{count} {suffix}" for suffix, count in left_out.items()))
    return sources


def _prepared(uri: str, split: str | None) -> list[SourceFile] | None:
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
    return [SourceFile("samples", storage.join(uri, name), name) for name in names]


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
    return folder, [name for name in storage.list_files(folder) if pattern.match(name) is not None]


def _to_pattern(uri: str) -> tuple[str, PathPattern]:
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
    try:
        return folder, PathPattern(glob_translate(rest), "source")
    except ValueError as error:  # fsspec repeats nothing of the glob
        raise UserError(f"`source` is no file, folder or glob: {error}.") from None


def takes(source: str, uri: str) -> bool:
    """Whether `source`, read once more, would take a file at `uri`, too."""
    if is_on_hub(source) or not _WILDCARDS.search(source):
        return False
    source = storage.absolute(source)
    if storage.exists(source):
        return False
    folder, pattern = _to_pattern(source)
    return uri.startswith(f"{folder}/") and pattern.match(uri[len(folder) + 1 :]) is not None


def _kind(name: str) -> Kind | None:
    """By suffix; a name without one, or a DICOM UID (digits and dots), counts as an image."""
    file = posixpath.basename(name)
    kind = kind_of(file)
    if kind == "video":
        return "video"
    is_image = kind in _KINDS or not suffix_of(file) or file.replace(".", "").isdecimal()
    return "image" if is_image else None
