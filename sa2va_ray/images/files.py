"""What the name of a file tells: its kind, by the suffix, and whether a person put it there."""

import posixpath
from collections import Counter
from collections.abc import Iterable

_KINDS = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif"), "JPEG"),
    **dict.fromkeys(("tif", "tiff"), "TIFF"),
    **dict.fromkeys(("dcm", "dicom"), "DICOM"),
    **dict.fromkeys(("mp4", "avi", "mov", "mkv", "webm", "m4v", "mpg", "mpeg"), "video"),
    **dict.fromkeys(("pgm", "ppm", "pbm", "pnm"), "PNM"),
    "gif": "GIF",
    "png": "PNG",
    "bmp": "BMP",
    "webp": "WebP",
    "json": "JSON",
    "parquet": "Parquet",
}
IMAGE_KINDS = frozenset({"JPEG", "PNG", "BMP", "TIFF", "GIF", "PNM", "WebP"})
"""Kinds of which a file is one image; a DICOM file may hold several frames."""
UNREAD_IMAGE_SUFFIXES = frozenset({"heic", "heif", "avif", "jp2", "j2k", "jxl", "svg", "pdf", "nii", "mha", "mhd"})
"""Suffixes of images that are not decoded."""

_KNOWN = _KINDS.keys() | UNREAD_IMAGE_SUFFIXES | {"csv", "txt", "xml", "yaml", "xlsx", "npy", "npz", "mat", "zip", "gz"}
_RUBBISH = {"__macosx", "thumbs.db", "desktop.ini"}


def suffix_of(name: str) -> str:
    """The suffix of a path, without the dot, in small letters; empty where there is none."""
    return posixpath.splitext(name)[1][1:].lower()


def kind_of(name: str) -> str:
    """The kind of a file by its suffix: one of `IMAGE_KINDS`, DICOM, video, JSON, Parquet, or `other`."""
    return _KINDS.get(suffix_of(name), "other")


def has_known_kind(name: str) -> bool:
    """Whether the suffix says a kind; without one, what stands behind the last dot belongs to the name."""
    return suffix_of(name) in _KINDS


def is_hidden(name: str) -> bool:
    """Whether a path, or a folder on it, begins with a dot: .DS_Store, and the `._` files of macOS, do."""
    return any(part.startswith(".") for part in name.split("/"))


def is_rubbish(name: str) -> bool:
    """Whether an operating system left a file behind."""
    return any(part.lower() in _RUBBISH for part in name.split("/"))


def count_suffixes(names: Iterable[str]) -> dict[str, int]:
    """Number of files by suffix, sorted; `other` where it is none of the usual ones: it may be a part of a name."""
    suffixes = (suffix_of(name) for name in names)
    return dict(Counter(sorted(suffix if suffix in _KNOWN else "other" for suffix in suffixes)))


def suffixes_of(kinds: Iterable[str]) -> list[str]:
    """The suffixes of some kinds with their dot, sorted, as a message lists them."""
    return sorted(f".{suffix}" for suffix, kind in _KINDS.items() if kind in set(kinds))
