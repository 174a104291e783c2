"""What is made of each image of the queue on the cluster: its thumbnail, and its masks as Label Studio has them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from sa2va_ray.cluster.streams import map_items
from sa2va_ray.images.brush_rle import mask_to_brush_rle
from sa2va_ray.images.decode import ImageError, decode_image_bytes
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.labelling.ranking import Candidate
from sa2va_ray.pictures.panels import label_panels
from sa2va_ray.predict.job.items import read_images

_PANEL_PX = 280
_ITEMS_PER_TASK = 4
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("rles", pa.list_(pa.binary())),  # brush strokes of each mask that is not empty
        ("pixels", pa.binary()),  # (H, W, 3) uint8: the image and the image with its masks; null: it cannot be read
        ("shape", pa.list_(pa.int64())),
    ]
)


def draw(candidates: Sequence[Candidate], num_pictures: int, max_pixels: int) -> dict[str, dict[str, Any]]:
    """Id -> row of `_SCHEMA`; those of the first `num_pictures` have pixels."""
    units = [(candidate, place < num_pictures) for place, candidate in enumerate(candidates)]
    rows = map_items(partial(_draw, max_pixels=max_pixels), units, _SCHEMA, _ITEMS_PER_TASK, "draw")
    return {row["id"]: row for row in rows}


def _draw(unit: tuple[Candidate, bool], max_pixels: int) -> dict[str, Any]:
    candidate, with_picture = unit
    masks = [rle_to_mask(rle) for rle in candidate.row["masks"]]
    row: dict[str, Any] = {"id": candidate.id, "rles": [bytes(mask_to_brush_rle(mask)) for mask in masks if mask.any()]}
    if with_picture and (picture := _picture(candidate, masks, max_pixels)) is not None:
        row |= {"pixels": picture.tobytes(), "shape": picture.shape}
    return row


def _picture(candidate: Candidate, masks: Sequence[np.ndarray], max_pixels: int) -> np.ndarray | None:
    ((_, data),) = read_images([candidate.item], max_pixels)
    try:
        pixels = decode_image_bytes(data, max_pixels) if data else None
    except ImageError:
        return None
    size = (candidate.row["height"], candidate.row["width"])
    if pixels is None or pixels.shape[:2] != size:
        return None
    union: np.ndarray = np.any([np.zeros(size, bool), *masks], axis=0)
    return label_panels(pixels, {"prediction": union}, _PANEL_PX)
