"""The user's list of images that have no object."""

import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.prepare.records import Annotation
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import Item

LAYOUT = "negatives_list"
_MAX_LINES_TOLD = 10


def read_negatives_list(folder: Folder, uri: str | None, dicoms: Iterable[str]) -> frozenset[str]:
    """Names of the images that the text file at `uri` lists, a path below the source on each line. A DICOM file stands
    for all of its frames that have no mask.

    Args:
        dicoms: names of the DICOM files that are read.

    Raises:
        UserError: no such file, not UTF-8, or lines that name no image file of the source; it tells their numbers.
    """
    if uri is None:
        return frozenset()
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError):
        raise UserError(
            "`negatives_list` is missing or no UTF-8 text. It is a text file: the path of an image below `source` on "
            "each line."
        ) from None
    lines = [_to_name(line.strip()) for line in text.splitlines()]
    images = {*folder.images, *dicoms}
    unknown = [number for number, line in enumerate(lines, start=1) if line and line not in images]
    if unknown:
        told = ", ".join(map(str, unknown[:_MAX_LINES_TOLD])) + (", ..." if len(unknown) > _MAX_LINES_TOLD else "")
        raise UserError(
            f"{len(unknown)} line(s) of `negatives_list` name no image file of the source (lines {told}). A line is a "
            "path below `source` with its suffix, such as images/a_frame_1.png."
        )
    return frozenset(line for line in lines if line)


def _to_name(line: str) -> str:
    """Also as `find .` prints it, with ./ before it."""
    return posixpath.normpath(unicodedata.normalize("NFC", line)) if line else ""


def check_no_labels(negatives: Set[str], labels: Set[str | None]) -> None:
    """
    Raises:
        UserError: some of the listed images are masks.
    """
    if masks := negatives & labels:
        raise UserError(
            f"{len(masks)} of {len(negatives)} images in `negatives_list` are masks or labels of others. List the "
            "images that have no object, not their masks."
        )


def items_without_label(negatives: Set[str], of_others: Callable[[str], Sequence[Item] | None]) -> list[Item]:
    """Items of listed images, sorted.

    Args:
        negatives: those that no label is about, and DICOM files.
        of_others: makes the items of a file, of which the data set that it is in knows more, or which is no plain
            image; None for any other.
    """
    items: list[Item] = []
    for name in sorted(negatives):
        found = of_others(name)
        items += [Item(LAYOUT, name, Annotation({}))] if found is None else found
    return [replace(item, layout=LAYOUT) for item in items]
