"""The user's list of images that have no object."""

import unicodedata
from collections.abc import Set

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.prepare.records import Annotation
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import Item

LAYOUT = "negatives_list"
_MAX_LINES_TOLD = 10


def read_negatives_list(folder: Folder, uri: str | None) -> frozenset[str]:
    """Names of the images that the text file at `uri` lists, a path below the source on each line.

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
    lines = [unicodedata.normalize("NFC", line.strip()) for line in text.splitlines()]
    images = set(folder.images)
    unknown = [number for number, line in enumerate(lines, start=1) if line and line not in images]
    if unknown:
        told = ", ".join(map(str, unknown[:_MAX_LINES_TOLD])) + (", ..." if len(unknown) > _MAX_LINES_TOLD else "")
        raise UserError(
            f"{len(unknown)} line(s) of `negatives_list` name no image file of the source (lines {told}). A line is a "
            "path below `source` with its suffix, such as images/a_frame_1.png."
        )
    return frozenset(line for line in lines if line)


def items_without_label(negatives: Set[str], labelled: Set[str | None]) -> list[Item]:
    """An item for each listed image that no label is about, sorted."""
    return [Item(LAYOUT, name, Annotation({})) for name in sorted(negatives - labelled)]
