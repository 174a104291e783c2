"""Images and labels that belong together as the user's list says."""

import posixpath
from collections import Counter

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


def read_pairs(folder: Folder, uri: str, options: SourceOptions) -> tuple[list[Item], list[str]]:
    """An item for each line of the list at `uri`, by path of the image; and what a user has to know, in numbers.

    Raises:
        UserError: no such list, none that can be read, or lines that name no image and label of the source; it tells
            their numbers.
    """
    rows = list(read_table(uri, "pairs", _COLUMNS))
    lines = [(number, _to_name(row["image"]), _to_name(row["label"]), row["patient"]) for number, row in rows]
    times = Counter(label for _, _, label, _ in lines)
    images, labels = set(folder.images) - times.keys(), {*folder.images, *folder.json_files}
    wrong = [number for number, image, label, _ in lines if image not in images or label not in labels]
    if wrong or not lines:
        raise UserError(_refusal(wrong, len(lines)))
    items = [
        _item(folder, image, label, patient, times[label], options)
        for _, image, label, patient in sorted(lines, key=lambda line: line[1])
    ]
    notes = [f"{len(lines)} images have the label that `pairs` names."]
    if unnamed := sum(not patient for _, _, _, patient in lines):
        notes.append(f"{unnamed} of {len(lines)} lines of `pairs` name no patient: `patient_pattern` tells it.")
    if others := len(images - {image for _, image, _, _ in lines}):
        listed = " unless `negatives_list` names them" if options.negatives_list else ""
        notes.append(f"{others} image file(s) are in no line of `pairs`, and left{listed}.")
    return items, notes


def _to_name(path: str) -> str:
    """Also as Windows or `find .` writes it."""
    return posixpath.normpath(path.replace("\\", "/")) if path else ""


def _item(folder: Folder, image: str, label: str, patient: str, num_images: int, options: SourceOptions) -> Item:
    if num_images > 1:
        reason = f"{num_images} lines of `pairs` have one label; whose it is is unknown."
        return Item(LAYOUT, image, Rejected("ambiguous_pair", reason)).at(label, None)
    read = labelme_label if kind_of(label) == "JSON" else mask_label
    return Item(LAYOUT, image, read(folder, label, options), patient=patient or None).at(label, None)


def _refusal(wrong: list[int], num_lines: int) -> str:
    written = (
        "It is a CSV file: a line `image,label,patient`, then one for each image, with the paths of image and label "
        "below `source`, with their suffixes; upper and lower case count."
    )
    if not num_lines:
        return f"`pairs` names no image. {written}"
    told = ", ".join(map(str, wrong[:_MAX_LINES_TOLD])) + (", ..." if len(wrong) > _MAX_LINES_TOLD else "")
    return (
        f"{len(wrong)} of {num_lines} lines of `pairs` name no image of the source, or one that is the label in a "
        f"line, or no label of the source (lines {told}). {written} No DICOM file can stand there; an image without "
        "an object stands in `negatives_list`."
    )
