"""Finds the JSON files of a source that hold annotations, and reads them by what is in them."""

import posixpath
from collections.abc import Iterable
from typing import Any

from sa2va_ray.config import UserError
from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import Item, SourceOptions
from sa2va_ray.prepare.sources.json_labels import annotation_lists, coco, labelme
from sa2va_ray.prepare.sources.json_labels.annotation_lists import UNRECOGNISED
from sa2va_ray.prepare.sources.label_studio import export as label_studio
from sa2va_ray.prepare.sources.shapes import parse_json

DOCUMENT_LAYOUTS = (label_studio.DOCUMENT, annotation_lists.DOCUMENT, coco.DOCUMENT)
"""To add a layout of one JSON file: a module with its `DOCUMENT`, and an entry here. The first that says the content is
its own reads it."""

_ANNOTATIONS = "annotations.json"  # a file of this name must be readable, others may be anything
_KNOWN_FIELDS = ("image", "mask", "conversations", "text", "images", "annotations", "shapes", "segmentation")


def read_json_labels(folder: Folder, options: SourceOptions) -> tuple[list[Item], dict[str, str]]:
    """All items, and the LabelMe files that have no image, each with the reason.

    JSON files with the stem of an image are taken for LabelMe's by a look at a few; all others are opened here.

    Raises:
        UserError: an `annotations.json` that is no JSON, or of a layout that is not read.
    """
    paired = labelme.pair_labels(folder)
    pairs = paired if labelme.are_labelme(folder, list(paired)) else {}
    items: list[Item] = []
    lonely: dict[str, str] = {}
    for name in folder.json_files:
        if name in paired:
            continue
        content = _parse(folder, name)
        if isinstance(content, Rejected):
            items.append(Item(UNRECOGNISED, None, content).at(name, None))
        elif not labelme.is_labelme(content):
            items += _read_document(folder, name, content, options)
        elif image := labelme.find_image(folder, name, content):
            pairs[name] = [image]
        else:
            lonely[name] = _why_lonely(folder, name, content)
    items += labelme.read_labels(folder, dict(sorted(pairs.items())), options)
    return items, lonely


def _why_lonely(folder: Folder, name: str, content: dict[str, Any]) -> str:
    if kinds := folder.unread_beside(name):
        return f"The file with the stem of this label is of a kind that is not read ({', '.join(kinds)}). Save as PNG."
    if content.get("imageData"):
        return "The image is only inside the label file (imageData). Write it out with labelme's own tools."
    return ""


def _parse(folder: Folder, name: str) -> Any:
    """The content, or why there is none."""
    try:
        return parse_json(folder.read(name))
    except Rejected as rejected:
        if posixpath.basename(name) == _ANNOTATIONS:
            raise UserError(f"{_ANNOTATIONS} in `source` is not JSON: {rejected.reason}") from None
        return rejected.with_traceback(None)


def _read_document(folder: Folder, name: str, content: Any, options: SourceOptions) -> Iterable[Item]:
    for layout in DOCUMENT_LAYOUTS:
        if layout.is_own(content):
            return layout.read(folder, name, content, options)
    if posixpath.basename(name) == _ANNOTATIONS:
        raise UserError(
            f"{_ANNOTATIONS} in `source` has another layout: {_describe(content)}. Read are "
            f"{', and '.join(layout.example for layout in DOCUMENT_LAYOUTS)}."
        )
    return []


def _describe(content: Any) -> str:
    """The shape of unknown JSON. Only field names that we know are repeated: others may be file names."""
    if isinstance(content, list) and content and isinstance(content[0], dict):
        mask = content[0].get("mask")
        of_what = f" of {type(mask[0]).__name__}" if isinstance(mask, list) and mask else ""
        masks = f"{type(mask).__name__}{of_what}"
        return f"a list of {len(content)} items with {_known_fields(content[0])}, mask a {masks}"
    if isinstance(content, dict):
        return f"a mapping of {len(content)} keys with {_known_fields(content)}"
    return f"a {type(content).__name__} with {len(content) if isinstance(content, list) else 'no'} items"


def _known_fields(item: dict[str, Any]) -> str:
    known = [name for name in _KNOWN_FIELDS if name in item]
    return f"the fields {', '.join(known) or 'none that is known'} and {len(item) - len(known)} other(s)"
