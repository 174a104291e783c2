"""The layouts that are all called annotations.json: a list with an item per image, each read by its own shape."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from sa2va_ray.prepare.records import Annotation, Finding, Rejected
from sa2va_ray.prepare.sources.collected import Collected
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import DocumentLayout, Item, SourceOptions, build_item
from sa2va_ray.prepare.sources.shapes import (
    is_polygon,
    to_polygon,
    to_polygons,
    to_segmentation,
    to_size,
    to_text,
    wrong_type,
)

UNRECOGNISED = "unrecognised"
_STRING_FINDING = Finding("text_is_string", "The text is a string instead of a list of one; taken as a single text.")


def is_annotation_list(content: Any) -> bool:
    return isinstance(content, list) and any(layout_of(item) != UNRECOGNISED for item in content)


def read_annotation_list(folder: Folder, document: str, content: list[Any], options: SourceOptions) -> Iterator[Item]:
    """One item for each of the list. `document` is the name of the file, from which image paths are looked up."""
    for place, item in enumerate(content):
        yield _read_item(folder, document, item, options).at(document, f".[{place}]")


def layout_of(item: Any) -> str:
    """Layout of one item of the list, by the depth of its `mask` and the form of its `text`."""
    mask = item.get("mask") if isinstance(item, dict) else None
    if not isinstance(mask, list) or "image" not in item:
        return UNRECOGNISED
    if any(isinstance(each, dict) and "segmentation" in each for each in mask):
        return "guide"
    if all(is_polygon(each) for each in mask):
        return "single_text" if _is_single_text(item.get("text"), len(mask)) else "flat"
    return "nested" if all(isinstance(each, list) for each in mask) else UNRECOGNISED


def _read_item(folder: Folder, document: str, item: Any, options: SourceOptions) -> Item:
    layout = layout_of(item)
    if not isinstance(item, dict):
        return Item(layout, None, wrong_type("The item", "a mapping", item))
    return build_item(
        layout,
        find_image=lambda: folder.find_image(document, item.get("image")),
        annotate=lambda: _annotate(layout, item, options),
    )


def _annotate(layout: str, item: dict[str, Any], options: SourceOptions) -> Annotation:
    mask = item.get("mask")
    if layout == UNRECOGNISED:
        raise Rejected("wrong_type", "The field `mask` is none of the forms that are read, or its parts differ.")
    assert isinstance(mask, list)
    findings = [_STRING_FINDING] if isinstance(item.get("text"), str) else []
    collected = Collected(options.ignore_labels, options.classes)
    for phrase, each in zip(_phrases(layout, item, len(mask), options.phrase), mask, strict=True):
        if collected.keeps(phrase):
            collected.add(phrase, _to_polygons(layout, each))
    return collected.to_annotation(to_size(item.get("height"), item.get("width")), findings)


def _to_polygons(layout: str, part: Any) -> list[np.ndarray]:
    """The polygons of one part of `mask`, to which a text belongs."""
    if layout == "nested":
        return to_polygons(part, "An object")
    return _segmentation(part) if layout == "guide" else [to_polygon(part)]


def _segmentation(value: Any) -> list[np.ndarray]:
    if not isinstance(value, dict):
        raise wrong_type("An object", "a mapping with `segmentation`", value)
    return to_segmentation(value.get("segmentation"), "An object")


def _phrases(layout: str, item: dict[str, Any], num_groups: int, default: str) -> list[str]:
    """A phrase for each group of polygons."""
    if "text" not in item:
        return [_answered_phrase(item.get("conversations", [])) or default] * num_groups
    text = item["text"]
    if not isinstance(text, str | list):
        raise wrong_type("The text", "a list", text)
    texts = [text] if isinstance(text, str) else text
    phrases = [to_text(each, "A text of the item") for each in texts]
    if len(phrases) == 1 and layout == "single_text":
        return phrases * num_groups
    if len(phrases) != num_groups:
        raise Rejected(
            "text_count", f"{len(phrases)} text(s) for {num_groups} object(s); which belong together is unknown."
        )
    return phrases


def _answered_phrase(turns: Any) -> str:
    """The text between `<p>` and `</p>` in the answer, empty where there is none."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise wrong_type("`conversations`", "a list of mappings", turns)
    answers = [to_text(turn.get("value"), "An answer") for turn in turns if turn.get("from") == "gpt"]
    phrases = {phrase.strip() for answer in answers for phrase in re.findall("<p>(.*?)</p>", answer, re.DOTALL)}
    if len(phrases) > 1:
        raise Rejected("several_phrases", f"The answer names {len(phrases)} phrases; which object is which is unknown.")
    return "".join(phrases)


def _is_single_text(text: Any, num_polygons: int) -> bool:
    return isinstance(text, str) or (isinstance(text, list) and len(text) == 1 < num_polygons)


DOCUMENT = DocumentLayout(
    is_annotation_list,
    read_annotation_list,
    'a list of {"image": path, "mask": polygons, "text": [...]}, the same with "conversations"',
)
