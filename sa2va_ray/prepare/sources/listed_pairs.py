"""Images and labels that belong together as the user's list says."""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from typing import NamedTuple

from sa2va_ray.config import UserError
from sa2va_ray.images.files import kind_of
from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import Item, SourceOptions
from sa2va_ray.prepare.sources.json_labels.labelme import labelme_label
from sa2va_ray.prepare.sources.mask_images import mask_label
from sa2va_ray.prepare.user_table import read_table

LAYOUT = "pairs"
_COLUMNS = ("image", "label", "patient")
_MAX_LINES_TOLD = 10
_WHOLE_PATH = re.compile(r"(\w+:)?/")  # /data/1.png, C:/data/1.png; s3://bucket/1.png has lost a slash


class _Line(NamedTuple):
    number: int
    image: str
    label: str
    patient: str


def read_pairs(folder: Folder, uri: str, options: SourceOptions) -> tuple[list[Item], list[str]]:
    """An item for each line of the list at `uri`, by path of the image, of lines that say the same for one of them; and
    what a user has to know, in numbers.

    Raises:
        UserError: no such list, none that can be read, or lines that name no image and label of the source; it tells
            their numbers.
    """
    numbered = _lines(uri)
    _check(folder, numbered)
    lines = list({line[1:]: line for line in numbered}.values())
    times = Counter(line.label for line in lines)
    items = [_item(folder, line, times[line.label], options) for line in sorted(lines, key=lambda line: line.image)]
    notes = [f"{len(lines)} images have the label that `pairs` names."]
    if num_again := len(numbered) - len(lines):
        notes.append(f"{num_again} line(s) of `pairs` say what another one says, and are left.")
    if unnamed := sum(not line.patient for line in lines):
        notes.append(f"{unnamed} of {len(lines)} lines of `pairs` name no patient: `patient_pattern` tells it.")
    if others := len(set(folder.images) - times.keys() - {line.image for line in lines}):
        listed = " unless `negatives_list` names them" if options.negatives_list else ""
        notes.append(f"{others} image file(s) are in no line of `pairs`, and left{listed}.")
    return items, notes


def _lines(uri: str) -> list[_Line]:
    rows = read_table(uri, "pairs", _COLUMNS)
    return [_Line(number, _to_name(row["image"]), _to_name(row["label"]), row["patient"]) for number, row in rows]


def _to_name(path: str) -> str:
    """Also as Windows or `find .` writes it."""
    return posixpath.normpath(path.replace("\\", "/")) if path else ""


def _item(folder: Folder, line: _Line, num_lines: int, options: SourceOptions) -> Item:
    if num_lines > 1:
        reason = f"{num_lines} lines of `pairs` have one label, of several images or patients; whose it is is unknown."
        return Item(LAYOUT, line.image, Rejected("ambiguous_pair", reason)).at(line.label, None)
    read = labelme_label if kind_of(line.label) == "JSON" else mask_label
    label = read(folder, line.label, options)
    return Item(LAYOUT, line.image, label, patient=line.patient or None).at(line.label, None)


def _check(folder: Folder, lines: Sequence[_Line]) -> None:
    """Raises `UserError` where there is no line, or one names no image and label of the source."""
    written = (
        "It is a CSV file: a line `image,label,patient`, then one for each image, with the paths of image and label "
        "below `source`, with their suffixes; upper and lower case count."
    )
    if not lines:
        raise UserError(f"`pairs` names no image. {written}")
    faults = defaultdict(list)
    names, images, labels = set(folder.names), set(folder.images), {*folder.images, *folder.json_files}
    drawn = {line.label for line in lines}
    for line in lines:
        if fault := _fault(line, names, images, labels, drawn):
            faults[fault].append(line.number)
    if faults:
        told = "; ".join(f"{fault} ({_told(numbers)})" for fault, numbers in faults.items())
        raise UserError(
            f"{sum(map(len, faults.values()))} of {len(lines)} lines of `pairs` cannot be used: {told}. {written} "
            "No DICOM file can stand there; an image without an object stands in `negatives_list`."
        )


def _fault(
    line: _Line, names: Container[str], images: Container[str], labels: Container[str], drawn: Container[str]
) -> str:
    """Why a line cannot be used, empty where it can.

    Args:
        names, images, labels: what is in the source, and of that what is read as images, and as labels.
        drawn: what lines name as labels.
    """
    for name, read, what in ((line.image, images, "image"), (line.label, labels, "label")):
        if not name:
            return f"no {what} is named"
        if _WHOLE_PATH.match(name):
            return f"the {what} is named by its whole path and not by that below `source`"
        if name not in names:
            return f"the {what} is not below `source`"
        if name not in read:
            return f"the {what} is of a kind that is not read"
    return "the image is the label in a line" if line.image in drawn else ""


def _told(numbers: Sequence[int]) -> str:
    more = ", ..." if len(numbers) > _MAX_LINES_TOLD else ""
    return ("line " if len(numbers) == 1 else "lines ") + ", ".join(map(str, numbers[:_MAX_LINES_TOLD])) + more
