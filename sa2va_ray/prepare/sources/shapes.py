"""Checks of values in annotations: polygons, run lengths, texts, sizes. Reasons never repeat a value that is a text."""

import ast
import json
import re
import unicodedata
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sa2va_ray.prepare.records import Rejected

_NUMBERS = {int, float}
_MAX_SIDE = 10**9
_MAX_RLE_BITS = 35  # COCO packs numbers of 32 bits, so at most 7 characters
# Control characters but tab and line break, and lone surrogates, which no file or table can hold.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_json(data: bytes) -> Any:
    """Raises `Rejected` with the place of the fault, without the text around it."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError as error:
        reason = f"The label is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        raise Rejected("label_unreadable", reason) from None
    except (RecursionError, ValueError) as error:
        reason = f"{type(error).__name__} while reading it"
    raise Rejected("label_unreadable", f"The label is not JSON: {reason}. It may be cut off; copy it again.")


def to_text(value: Any, where: str) -> str:
    """A phrase in Unicode form NFC, without space around it."""
    if not isinstance(value, str):
        raise wrong_type(where, "a text", value)
    if not value.strip():
        raise Rejected("empty_text", f"{where} is empty, so it is unknown what the object is called.")
    if _NO_TEXT.search(value):
        raise Rejected(
            "wrong_type", f"{where} holds a character that no text has: a control character, or half of one."
        )
    return unicodedata.normalize("NFC", value.strip())


def to_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(H, W); None where the annotation states none."""
    if height is None and width is None:
        return None
    size = _to_side(height), _to_side(width)
    if 0 in size:
        raise Rejected(
            "wrong_type", f"Height and width of the annotation are not both whole numbers from 1 to {_MAX_SIDE}."
        )
    return size


def to_whole(value: Any) -> int | None:
    """A whole number however a tool wrote it: 7, 7.0, "7" or "7.0"; None for anything else."""
    if type(value) is str and re.fullmatch(r"-?(0|[1-9]\d{0,17})(\.0+)?", value.strip(), re.ASCII):
        return int(value.strip().partition(".")[0])
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _to_side(value: Any) -> int:
    """Pixels; 0 for what is no height or width."""
    side = to_whole(value)
    return side if side is not None and 0 < side <= _MAX_SIDE else 0


def is_polygon(value: Any) -> bool:
    """Whether a list is meant to be a polygon: [x, y, ...] or [[x, y], ...], not a list of polygons."""
    return isinstance(value, list) and (set(map(type, value)) <= _NUMBERS or _are_pairs(value))


def to_polygon(value: Any) -> np.ndarray:
    """[x, y, x, y, ...] or [[x, y], ...] -> (P, 2) float."""
    if not isinstance(value, list):
        raise wrong_type("A polygon", "a list of numbers", value)
    numbers = [number for pair in value for number in pair] if _are_pairs(value) else value
    if not set(map(type, numbers)) <= _NUMBERS:
        raise Rejected("wrong_type", "A polygon holds something that is not a number.")
    if len(numbers) % 2:
        raise Rejected("odd_polygon", f"A polygon has {len(numbers)} numbers; pairs of x, y need an even count.")
    if len(numbers) < 6:
        raise Rejected("short_polygon", f"A polygon has {len(numbers) // 2} point(s); it needs at least 3.")
    try:
        points = np.array(numbers, float).reshape(-1, 2)
    except OverflowError:  # JSON has integers of any length
        points = np.array([np.inf])
    if not np.isfinite(points).all():
        raise Rejected("wrong_type", "A polygon holds a number that is not finite.")
    return points


def to_polygons(value: Any, where: str) -> list[np.ndarray]:
    if not isinstance(value, list):
        raise wrong_type(where, "a list of polygons", value)
    if not value:
        raise Rejected("no_polygons", f"{where} has no polygons.")
    return [to_polygon(each) for each in value]


def to_segmentation(value: Any, where: str) -> list[np.ndarray]:
    """COCO's list of polygons, or one polygon without a list around it."""
    return to_polygons([value] if isinstance(value, list) and value and _is_lone_polygon(value) else value, where)


def to_rle(value: dict[str, Any], max_pixels: int) -> dict[str, Any]:
    """COCO RLE, compressed or not -> compressed, checked: pycocotools fills what short counts leave with old memory."""
    sides, counts = value.get("size"), value.get("counts")
    size = [_to_side(side) for side in sides] if isinstance(sides, list) else []
    if len(size) != 2 or 0 in size:
        raise Rejected("rle_broken", f"The `size` of a run-length mask is not two whole numbers from 1 to {_MAX_SIDE}.")
    height, width = size
    if height * width > max_pixels:
        raise Rejected("label_too_large", f"A run-length mask has {height * width} pixels; at most {max_pixels} go.")
    lengths = _run_lengths(counts)
    if min(lengths, default=0) < 0 or max(lengths, default=0) > height * width:
        raise Rejected("rle_broken", f"A count of a run-length mask is below 0 or above its {height * width} pixels.")
    if sum(lengths) != height * width:
        raise Rejected(
            "rle_broken", f"The counts of a run-length mask make {sum(lengths)} pixels, its size {height * width}."
        )
    rle = coco_mask.frPyObjects({"size": size, "counts": lengths}, height, width)
    return {"size": size, "counts": rle["counts"].decode("ascii")}


def wrong_type(where: str, expected: str, value: Any) -> Rejected:
    return Rejected("wrong_type", f"{where} is not {expected} but of type {type(value).__name__}.")


def _is_lone_polygon(value: list[Any]) -> bool:
    """[x, y, ...], or [[x, y], ...] of enough points: as polygons they would all have a single point."""
    return set(map(type, value)) <= _NUMBERS or (len(value) >= 3 and _are_pairs(value))


def _are_pairs(value: list[Any]) -> bool:
    """A polygon of two numbers would be too short, so a list of pairs can only be points."""
    return bool(value) and all(type(each) is list and len(each) == 2 for each in value)


def _run_lengths(counts: Any) -> list[int]:
    if isinstance(counts, str):
        return _decompress(_unquoted(counts))
    lengths = [to_whole(count) for count in counts] if isinstance(counts, list) else [None]
    whole = [length for length in lengths if length is not None]
    if len(whole) < len(lengths):
        raise Rejected("rle_broken", "The counts of a run-length mask are neither whole numbers nor a text.")
    return whole


def _unquoted(counts: str) -> str:
    """Counts that were printed as Python bytes, b'...', taken out of them: COCO's packing has no quotes."""
    if not re.fullmatch(r"b(['\"])[^'\"]*\1", counts):
        return counts
    try:
        return ast.literal_eval(counts).decode("ascii")
    except (ValueError, SyntaxError):
        raise Rejected("rle_broken", "The counts of a run-length mask are damaged Python bytes.") from None


def _decompress(counts: str) -> list[int]:
    """COCO's packing: 5 bits a character, lowest first, bit 6 says that more follow; from the fourth number on it is
    the difference to the number two places before."""
    lengths: list[int] = []
    number, bits = 0, 0
    for code in (ord(character) - 48 for character in counts):
        if not 0 <= code < 64:
            raise Rejected("rle_broken", "The counts of a run-length mask hold a character that does not belong there.")
        number |= (code & 31) << bits
        bits += 5
        if bits > _MAX_RLE_BITS:
            raise Rejected("rle_broken", "The counts of a run-length mask hold a number that does not end.")
        if code & 32:
            continue
        if code & 16:
            number -= 1 << bits
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number, bits = 0, 0
    if bits:
        raise Rejected("rle_broken", "The counts of a run-length mask are cut off.")
    return lengths
