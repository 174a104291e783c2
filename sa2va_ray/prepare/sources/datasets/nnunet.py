"""What nnU-Net's raw data sets have of their own: channels in the names of images, labels in dataset.json."""

import posixpath
import re
from typing import Any

from sa2va_ray.config import UserError
from sa2va_ray.prepare.classes import IGNORE, Classes
from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.shapes import parse_json

_CHANNEL = re.compile(r"_\d{4}(?=\.[^./]+$)")
_DOCUMENT = "dataset.json"
_BACKGROUND = "background"
_MAX_DIGITS = 20  # of a mask value; Python reads no number of thousands


def without_channel(image: str) -> str:
    """The name of an image as its case is called."""
    return _CHANNEL.sub("", image)


def read_classes(folder: Folder, file: str) -> Classes | None:
    """The labels of a data set, as the dataset.json beside the folder of a file says; None where there is none.

    Raises:
        UserError: a dataset.json whose `labels` cannot be read, or that nnU-Net would not take.
    """
    name = posixpath.join(posixpath.dirname(posixpath.dirname(file)), _DOCUMENT)
    if name not in folder.json_files:
        return None
    try:
        content = parse_json(folder.read(name))
    except Rejected as rejected:
        raise UserError(f"{_DOCUMENT} in `source` is not JSON: {rejected.reason}") from None
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        raise UserError(f"{_DOCUMENT} in `source` has no mapping `labels` of names and mask values.")
    meanings = [_meaning(name, value) for name, value in labels.items()]
    listed = [(phrase, values) for phrase, values in meanings if values != [0] or phrase.lower() == IGNORE]
    if all(phrase.lower() == IGNORE for phrase, _ in listed):
        raise UserError(
            f"`labels` of {_DOCUMENT} in `source` names no object: mask value 0 is the background in nnU-Net, and "
            f"`{IGNORE}` is none. Each image would be learnt as one without an object. Write there, or say with "
            "`classes`, which mask values are which phrase."
        )
    try:
        return Classes.parse(listed, f"`labels` of {_DOCUMENT}")
    except ValueError as error:
        raise UserError(f"`labels` of {_DOCUMENT} in `source` {error}.") from None


def _meaning(name: str, value: Any) -> tuple[str, list[int]]:
    """A label and its values: `name: 1`, `name: [1, 2]`, or as version 1 wrote it, `"1": name`."""
    if name.isdecimal() and len(name) <= _MAX_DIGITS and isinstance(value, str):
        name, value = value, int(name)
    values = value if isinstance(value, list) else [value]
    phrase = name.replace("_", " ").strip()
    if not values or not all(type(each) is int for each in values) or not phrase:
        raise UserError(f"{_DOCUMENT} in `source`: a label is not a name with a mask value, or a list of them.")
    if phrase.lower() == _BACKGROUND and values != [0]:
        raise UserError(
            f"{_DOCUMENT} in `source` gives `{_BACKGROUND}` the mask value {', '.join(map(str, values))}, and in "
            "nnU-Net it is 0: by this list the background would be learnt as an object. Write 0 there and mend the "
            "masks, or say with `classes` which mask values are which phrase."
        )
    return phrase, values
