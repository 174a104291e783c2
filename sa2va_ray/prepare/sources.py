"""Reads a source folder: annotations only, no image is opened here.

One layout is read so far, the guide's: `annotations.json` is a list of
`{"image": path, "mask": [{"segmentation": [[x, y, x, y, ...], ...]}, ...], "conversations": [{"from", "value"}, ...]}`.
"""

import json
import os
import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from sa2va_ray.config import UserError
from sa2va_ray.prepare.records import Quarantined, Record, Rejected

ANNOTATIONS = "annotations.json"

_READ_TODAY = (
    f'Read today: {ANNOTATIONS} with a list of {{"image": path, "mask": [{{"segmentation": [[x, y, ...], ...]}}, ...], '
    '"conversations": [...]}. Convert the annotations to that, or point `source` at the folder that holds the file.'
)
_KINDS = {
    ".json": "JSON",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".dcm": "DICOM",
}
_KNOWN_FIELDS = ("image", "mask", "conversations", "text", "images", "annotations", "shapes", "segmentation")


@dataclass(frozen=True)
class Source:
    layout: str
    records: list[Record]
    quarantined: list[Quarantined]

    @property
    def num_items(self) -> int:
        return len(self.records) + len(self.quarantined)


def read_source(folder: str, phrase: str) -> Source:
    """Reads the annotations of a source folder. `phrase` names the objects of items that do not name them.

    Raises:
        UserError: no such folder, or none of the layouts that are read. It says what is there by kind, never by name.
    """
    root = Path(folder).expanduser().absolute()
    if not os.path.isdir(root):
        raise UserError(
            "`source` is not a folder that this machine sees. Check the path, and that its disk is mounted."
        )
    if not os.path.isfile(root / ANNOTATIONS):
        raise UserError(f"`source` has no {ANNOTATIONS}; it holds {_count_kinds(root)}. {_READ_TODAY}")
    content = _load_json(root / ANNOTATIONS)
    if not (isinstance(content, list) and any(_has_segmentations(item) for item in content)):
        raise UserError(f"{ANNOTATIONS} in `source` has another layout: {_describe(content)}. {_READ_TODAY}")
    return _read_guide(content, root, phrase)


class _Object(BaseModel):
    model_config = ConfigDict(strict=True)
    segmentation: list[list[FiniteFloat]] = Field(min_length=1)


class _Turn(BaseModel):
    model_config = ConfigDict(strict=True)
    speaker: str = Field(alias="from")
    value: str


class _Item(BaseModel):
    model_config = ConfigDict(strict=True)
    image: str = Field(min_length=1)
    mask: list[_Object]
    conversations: list[_Turn] = []


def _read_guide(items: list[Any], root: Path, phrase: str) -> Source:
    source = Source("guide", [], [])
    for index, item in enumerate(items):
        try:
            source.records.append(_to_record(index, item, root, phrase))
        except Rejected as rejected:
            source.quarantined.append(rejected.to_quarantined(index))
    return source


def _to_record(index: int, content: Any, root: Path, phrase: str) -> Record:
    item = _parse(content)
    name = posixpath.normpath(item.image)
    if name.startswith(("/", "..")):
        raise Rejected("path_outside", "The image path leads out of the source folder; it must be relative to it.")
    if not item.mask:
        raise Rejected("no_objects", "The item has no objects; an image without vessels cannot be told from a mistake.")
    polygons = [_to_polygon(flat) for each in item.mask for flat in each.segmentation]
    return Record(index, name, root / name, {_phrase(item) or phrase: polygons})


def _parse(content: Any) -> _Item:
    try:
        return _Item.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "item"
        raise Rejected("wrong_type", f"The annotation is not as expected at {where}: {problem['msg']}.") from None


def _to_polygon(flat: list[float]) -> np.ndarray:
    """[x, y, x, y, ...] -> (P, 2)."""
    if len(flat) % 2:
        raise Rejected("odd_polygon", f"A polygon has {len(flat)} numbers; pairs of x, y need an even count.")
    if len(flat) < 6:
        raise Rejected("short_polygon", f"A polygon has {len(flat) // 2} point(s); it needs at least 3.")
    return np.array(flat).reshape(-1, 2)


def _phrase(item: _Item) -> str:
    """The text between `<p>` and `</p>` in the answer, empty where there is none."""
    answers = [turn.value for turn in item.conversations if turn.speaker == "gpt"]
    phrases = {phrase.strip() for answer in answers for phrase in re.findall("<p>(.*?)</p>", answer, re.DOTALL)}
    if len(phrases) > 1:
        raise Rejected("several_phrases", f"The answer names {len(phrases)} phrases; which object is which is unknown.")
    return "".join(phrases)


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{ANNOTATIONS} in `source` cannot be read: {error.strerror}. Check its permissions.") from None
    except ValueError as error:
        raise UserError(f"{ANNOTATIONS} in `source` is not JSON: {error}. It may be cut off; copy it again.") from None


def _has_segmentations(item: Any) -> bool:
    mask = item.get("mask") if isinstance(item, dict) else None
    return isinstance(mask, list) and any(isinstance(each, dict) and "segmentation" in each for each in mask)


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


def _count_kinds(root: Path) -> str:
    files = (Path(name) for _, _, names in os.walk(root) for name in names)
    kinds = Counter(_KINDS.get(file.suffix.lower(), "other") for file in files)
    return ", ".join(f"{count} {kind} file(s)" for kind, count in sorted(kinds.items())) or "no files"
