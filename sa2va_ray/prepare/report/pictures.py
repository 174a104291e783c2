"""Chooses the samples that the report shows, and draws them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from sa2va_ray import storage
from sa2va_ray.images.decode import decode_image_bytes
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.pictures.classes import Colours, phrase_colours
from sa2va_ray.pictures.palette import Rgb
from sa2va_ray.pictures.panels import label_panels
from sa2va_ray.pictures.raw_polygons import draw_polygons
from sa2va_ray.pictures.sheet import Picture
from sa2va_ray.prepare.checks.validate import check_sample, read_annotations, read_image_file, rejecting
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.examine import QUARANTINED
from sa2va_ray.prepare.records import Record, Shape

PANEL_PX = 320
"""Longer side of a drawn image."""

_NUM_CONTACT = 24
_NUM_WORST = 24
_NUM_PER_CODE = 4


@dataclass(frozen=True)
class ReportPictures:
    """Attributes:
    contact: samples that are used, with their masks.
    worst: samples in quarantine and repaired ones; the caption has the reason.
    colours: of the phrases in `contact`.
    """

    contact: list[Picture]
    worst: list[Picture]
    colours: dict[str, Rgb] = field(default_factory=dict)


def draw_pictures(records: Mapping[int, Record], outcomes: Mapping[int, Any], config: PrepareConfig) -> ReportPictures:
    """Good samples for the contact sheet, and some of each thing that was found."""
    used = [row for row in outcomes.values() if row["verdict"] != QUARANTINED]
    used.sort(key=lambda row: row["sample_id"])  # a hash: a fair and stable choice
    colours = phrase_colours(phrase for row in used for phrase in row["phrases"])
    contact = [_draw_used(row, records, config, colours) for row in used[:_NUM_CONTACT]]
    worst = [picture for row in _worst(outcomes.values()) if (picture := _draw(row, records, config, colours))]
    return ReportPictures(contact, worst, colours)


def _worst(rows: Iterable[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Up to four of each code, the lowest agreement with the mask image first."""
    by_code = defaultdict(list)
    for row in rows:
        for finding in row["findings"]:
            by_code[finding["code"]].append(row)
    chosen = {}
    for code in sorted(by_code):
        worst = sorted(by_code[code], key=_agreement)
        chosen.update({row["index"]: row for row in worst[:_NUM_PER_CODE]})
    return list(chosen.values())[:_NUM_WORST]


def _agreement(row: Mapping[str, Any]) -> tuple[float, int]:
    dice = row.get("mask_dice")
    return (1.0 if dice is None else dice), row["index"]


def _draw(
    row: Mapping[str, Any], records: Mapping[int, Record], config: PrepareConfig, colours: Colours
) -> Picture | None:
    if row["index"] not in records:
        return None  # the source's list itself was wrong there: nothing to open
    if row["verdict"] == QUARANTINED:
        return _draw_quarantined(row, records[row["index"]], config)
    return _draw_used(row, records, config, colours)


def _draw_used(
    row: Mapping[str, Any], records: Mapping[int, Record], config: PrepareConfig, colours: Colours
) -> Picture:
    checked = check_sample(records[row["index"]], config)
    codes = ", ".join(each["code"] for each in row["findings"])
    caption = f"item {row['index']}, {row['split']}, {row['foreground']:.1%}" + (f": {codes}" if codes else "")
    return Picture(caption, label_panels(checked.pixels, checked.masks, PANEL_PX, checked.ignored, colours))


def _draw_quarantined(row: Mapping[str, Any], record: Record, config: PrepareConfig) -> Picture | None:
    """The image with its label as it came; None where there is none that can be drawn."""
    caption = f"item {row['index']}: {row['findings'][0]['code']}"
    try:
        return Picture(caption, _as_it_came(record, config))
    except storage.SilentStoreError:
        raise
    except Exception:  # whatever its check ended in happens here again, and one sample must not stop the job
        return None


def _as_it_came(record: Record, config: PrepareConfig) -> np.ndarray:
    with rejecting():
        pixels = decode_image_bytes(read_image_file(record), config.checks.max_pixels, record.frame)
        annotations = read_annotations(record).values()
    objects = [shapes for annotation in annotations for shapes in annotation.objects.values()]
    polygons = [line for shapes in objects for shape in shapes for line in _outlines(shape, config.checks.max_pixels)]
    return draw_polygons(pixels, polygons, PANEL_PX)


def _outlines(shape: Shape, max_pixels: int) -> list[np.ndarray]:
    """A polygon itself; of a mask the outlines of its pieces and holes, none where it is too large to be looked at."""
    if isinstance(shape, np.ndarray):
        return [shape]
    if math.prod(shape["size"]) > max_pixels:
        return []
    pieces, _ = cv2.findContours(rle_to_mask(shape).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [piece[:, 0].astype(float) for piece in pieces if len(piece) > 2]
