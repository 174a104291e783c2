"""The files of a source, and which belong together by their names.

Names are paths relative to the source, with `/`, in Unicode form NFC: macOS stores "ü" as two characters, the JSON file
written elsewhere names it with one.
"""

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, unquote

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.images.files import (
    IMAGE_KINDS,
    UNREAD_IMAGE_SUFFIXES,
    count_suffixes,
    has_known_kind,
    is_hidden,
    is_rubbish,
    kind_of,
    suffix_of,
)
from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources.shapes import wrong_type

_READ_IMAGES = ", ".join(sorted(IMAGE_KINDS))
_READ_KINDS = IMAGE_KINDS | {"JSON", "DICOM"}
_IMAGE_FOLDERS = {"image", "images", "img", "imgs", "jpegimages", "original", "originals", "dicom", "dicoms", "dcm"}
_LABEL_FOLDERS = {
    *(
        "mask",
        "masks",
        "label",
        "labels",
        "gt",
        "ground_truth",
        "ground truth",
        "groundtruth",
        "annotation",
        "annotations",
    ),
    *("seg", "segmentation", "segmentations", "segmentationclass", "json", "labelme"),
}
_LABEL_SUFFIX = re.compile(r"(.+)[_-](?:mask|label|gt|seg)s?", re.IGNORECASE | re.DOTALL)


class Folder:
    """Attributes:
    files: names of all files that are not hidden, sorted, as they are stored.
    names: the same in Unicode form NFC; rubbish of operating systems is left out.
    clashes: names of files left out because another one's name differs in its Unicode form only.
    """

    def __init__(self, uri: str) -> None:
        """Raises `UserError` where the source cannot be listed."""
        self._uri = uri
        self.files = sorted(name for name in _list_files(uri) if not is_hidden(name))
        self._numbers = {name: number for number, name in enumerate(self.files, start=1)}
        stored = [name for name in self.files if not is_rubbish(name)]
        times = Counter(unicodedata.normalize("NFC", name) for name in stored)
        self._stored = {unicodedata.normalize("NFC", name): name for name in stored}
        self.names = sorted(name for name, count in times.items() if count == 1)
        self.clashes = sorted(name for name in stored if times[unicodedata.normalize("NFC", name)] > 1)

    @cached_property
    def images(self) -> list[str]:
        """Mask images among them."""
        return [name for name in self.names if kind_of(name) in IMAGE_KINDS]

    @cached_property
    def json_files(self) -> list[str]:
        return [name for name in self.names if kind_of(name) == "JSON"]

    def number_of(self, name: str) -> int:
        """Place of a file, from 1, among all that are not hidden, sorted by the bytes of their paths: it tells a person
        who sees the source which file is meant, and nobody else anything."""
        return self._numbers[self._stored.get(name, name)]

    def uri_of(self, name: str) -> str:
        return storage.join(self._uri, self._stored[name])

    def read(self, name: str) -> bytes:
        """Raises `UserError`, without the name that storage would tell."""
        with _unnamed_errors(name):
            return storage.read_bytes(self.uri_of(name))

    def read_head(self, name: str, size: int) -> bytes:
        """The first `size` bytes. Raises as `read` does."""
        with _unnamed_errors(name):
            filesystem, path = storage.resolve(self.uri_of(name))
            with filesystem.open_input_file(path) as file:
                return file.read(size)

    def find_image(self, document: str, path: Any) -> str:
        """Name of the image that a JSON file calls `path`: from the folder of the file, else the only one below it
        that ends so.

        Raises:
            Rejected: no path, or one that leads out of the source, to no image or to several.
        """
        path = _checked_path(path)
        base = posixpath.dirname(document)
        name = posixpath.normpath(posixpath.join(base, path))
        if name.split("/")[0] == "..":
            raise _outside()
        if name in self._name_set:
            return _as_image(name)
        return self._find_below(_above_labels(base), posixpath.normpath(path))

    def find_image_by_name(self, document: str, path: Any) -> str:
        """As `find_image`; where that finds none, the only image below the folder of the file that ends as the path
        does, by as many of its folders as fit, if need be by its name alone: the others are those of the computer, or
        of the web address, that the objects were drawn at.

        Raises:
            Rejected: as `find_image` does.
        """
        try:
            return self.find_image(document, path)
        except Rejected as rejected:
            if rejected.code not in ("image_missing", "path_outside"):
                raise
            cause = rejected.with_traceback(None)
        base = _above_labels(posixpath.dirname(document))
        for ending in _endings(path):
            try:
                return self._find_below(base, ending)
            except Rejected as rejected:
                if rejected.code == "image_ambiguous":
                    raise
        if cause.code == "path_outside":  # as the path is of another computer, it is no use to blame it
            raise Rejected(
                "image_missing",
                "No image file of the source has the name that ends the path in the label file. Copy it there, or take "
                "its entry out of that file.",
            )
        raise cause

    def unread_beside(self, name: str) -> list[str]:
        """Suffixes of the files with the stem of a label that are not read; "unknown" for those that no image has."""
        key = key_of(name)
        suffixes = {
            suffix_of(each)
            for each in self.names
            if kind_of(each) not in _READ_KINDS and key_of(each.rpartition(".")[0] + ".png") == key
        }
        return sorted({suffix if suffix in UNREAD_IMAGE_SUFFIXES else "unknown" for suffix in suffixes})

    def count_unread(self, read: Container[str]) -> dict[str, int]:
        """Number of the files that nobody reads, by suffix, as `count_suffixes` tells it.

        Args:
            read: files that are read whatever they are called.
        """
        return count_suffixes(name for name in self.names if kind_of(name) not in _READ_KINDS and name not in read)

    def count_kinds(self) -> str:
        """What is there, for people, without any name."""
        kinds = Counter(kind_of(name) for name in self.names)
        return ", ".join(f"{count} {kind} file(s)" for kind, count in sorted(kinds.items())) or "no files"

    @cached_property
    def _name_set(self) -> set[str]:
        return set(self.names)

    @cached_property
    def _images_by_file(self) -> dict[str, list[str]]:
        return group_by((name.rpartition("/")[2].casefold(), name) for name in self.images if not in_label_folder(name))

    def _find_below(self, base: str, path: str) -> str:
        """Upper and lower case of a path count only where several files differ in nothing else."""
        start = f"{base}/" if base else ""
        named_so = self._images_by_file.get(posixpath.basename(path).casefold(), [])
        alike = [name for name in named_so if name.startswith(start) and _ends_with(name.casefold(), path.casefold())]
        found = [name for name in alike if _ends_with(name, path)] or alike
        if not found:
            raise Rejected("image_missing", "The image file is missing from the source.")
        if len(found) > 1:
            raise Rejected("image_ambiguous", f"{len(found)} image files end in this path; which is meant is unknown.")
        return found[0]


def key_of(name: str) -> str:
    """What an image and its labels have in common: the path without suffix and without folders like `images`."""
    *folders, file = (posixpath.splitext(name)[0] if has_known_kind(name) else name).split("/")
    kept = [each for each in folders if each.lower() not in _IMAGE_FOLDERS and each.lower() not in _LABEL_FOLDERS]
    return "/".join([*kept, file])


def label_keys(name: str) -> list[str]:
    """Keys that the image of a label may have, the likelier first: its own, and that without `_mask`."""
    key = key_of(name)
    match = _LABEL_SUFFIX.fullmatch(key)
    return [key, match[1]] if match else [key]


def in_label_folder(name: str) -> bool:
    """Whether the innermost folder that tells says that labels are in it."""
    for folder in reversed(name.lower().split("/")[:-1]):
        if folder in _LABEL_FOLDERS or folder in _IMAGE_FOLDERS:
            return folder in _LABEL_FOLDERS
    return False


def group_by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        groups[key].append(name)
    return dict(groups)


@contextmanager
def _unnamed_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (UserError, OSError):
        raise UserError(
            f"A file of `source` ({kind_of(name)}) was listed, but cannot be read. Check its permissions, and that the "
            "store or the disk is still there."
        ) from None


def _list_files(uri: str) -> Iterable[str]:
    try:
        return storage.list_files(uri)
    except storage.NotUtf8Error:
        raise UserError("`source` has file names that are not UTF-8. Rename them, for example with convmv.") from None
    except UserError:
        raise UserError(
            "`source` cannot be listed. Check that the disk or the store is there and the bucket exists, the "
            "permissions, and the credentials in the environment."
        ) from None


def _above_labels(folder: str) -> str:
    return posixpath.dirname(folder) if posixpath.basename(folder).lower() in _LABEL_FOLDERS else folder


def _ends_with(name: str, path: str) -> bool:
    return f"/{name}".endswith(f"/{path}")


def _endings(path: str) -> Iterator[str]:
    """The endings of a path, the longest first: as it stands, then as the web address that it may be (without the
    query, or what Label Studio's `?d=` names, with %20 resolved)."""
    address, _, query = path.partition("?")
    for spelling in (path, unquote(parse_qs(query).get("d", [address])[0])):
        parts = unicodedata.normalize("NFC", spelling).replace("\\", "/").split("/")
        parts = [part for part in parts if part not in ("", ".", "..")]
        yield from ("/".join(parts[start:]) for start in range(len(parts)))


def _checked_path(path: Any) -> str:
    if not isinstance(path, str):
        raise wrong_type("The image path", "a text", path)
    if not path.strip():
        raise Rejected("wrong_type", "The image path is empty.")
    path = unicodedata.normalize("NFC", path).replace("\\", "/")
    if path.startswith("/") or re.match(r"[a-zA-Z][\w+.-]*:/", path):
        raise _outside()
    return path


def _outside() -> Rejected:
    return Rejected("path_outside", "The image path leads out of the source folder; it must be relative to it.")


def _as_image(name: str) -> str:
    if kind_of(name) not in IMAGE_KINDS:
        raise Rejected("image_format", f"The image is a {kind_of(name)} file; {_READ_IMAGES} are read here.")
    return name
