"""From the shapes of an annotation to masks of the image's size: scaled, checked, united."""

from collections.abc import Sequence

import cv2
import numpy as np

from sa2va_ray.images.masks import polygons_to_mask, rle_to_mask
from sa2va_ray.prepare.records import Annotation, Finding, Rejected, Shape

_MAX_OUTSIDE_PX = 1.0
_MAX_ASPECT_CHANGE = 0.01


def draw_annotation(
    annotation: Annotation, height: int, width: int, label_size: tuple[int, int] | None
) -> tuple[dict[str, np.ndarray], np.ndarray, list[Finding]]:
    """Phrase -> (height, width) bool, the same of what is to be ignored, and what was repaired on the way.

    Args:
        label_size: (H, W) of the frame of polygons that lie outside the image and do not state their own.

    Raises:
        Rejected: shapes of another aspect ratio than the image, or outside of it; a polygon of fewer than 3 points.
    """
    findings = list(annotation.findings)
    groups = [*annotation.objects.values(), annotation.ignored]
    shapes = [shape for each in groups for shape in each]
    size = annotation.size or (height, width)
    if annotation.size is None and label_size and _count_outside(shapes, *size):
        size = label_size
    if size != (height, width):
        if annotation.is_exact:
            raise Rejected(
                "brush_size",
                f"A brush was drawn on {size[1]} x {size[0]} px and the image has {width} x {height} px. Give the "
                "image that it was drawn on.",
            )
        findings.append(_rescaled(size, height, width))
    masks, num_overlapping = [], 0
    for own in groups:
        polygons = [_scaled(shape, size, height, width) for shape in own if isinstance(shape, np.ndarray)]
        _check_polygons(polygons, height, width)
        mask = _drawn(own, size, (height, width))
        for polygon in polygons:
            twice = wound_twice(polygon, height, width)
            num_overlapping += bool(twice.any())
            mask |= twice
        masks.append(mask)
    if num_overlapping:
        detail = f"{num_overlapping} polygon(s) overlap themselves; what they cover twice belongs to the object."
        findings.append(Finding("self_overlap", detail))
    *objects, ignored = masks
    return dict(zip(annotation.objects, objects, strict=True)), ignored, findings


def _drawn(shapes: Sequence[Shape], size: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
    """The union of shapes that are drawn in a frame of `size`, as (H, W) bool of `image_size`."""
    height, width = image_size
    polygons = [_scaled(shape, size, height, width) for shape in shapes if isinstance(shape, np.ndarray)]
    mask = polygons_to_mask(polygons, height, width)
    for rle in shapes:
        if isinstance(rle, dict):
            mask |= _resized(rle_to_mask(rle), height, width)
    return mask


def wound_twice(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool: pixel centres that a polygon, (P, 2) x, y, goes around more than once.

    The even-odd rule of the rasteriser makes holes there. A hole that is cut by a bridge is gone around once.
    """
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    low, high = (np.clip(np.ceil(edge(y0, y1)), 0, height).astype(int) for edge in (np.minimum, np.maximum))
    crossed = high - low  # rows of each edge; a row belongs to [low, high), so that a corner counts once
    edges = np.repeat(np.arange(len(polygon)), crossed)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + low[edges]
    columns = np.ceil(x0[edges] + (rows - y0[edges]) * ((x1 - x0)[edges] / (y1 - y0)[edges]))
    columns = np.clip(columns, 0, width).astype(int)
    twice = np.zeros((height, width), bool)
    if not len(edges):
        return twice
    # Of an image with hundreds of polygons only the box around each is looked at.
    (top, left), (bottom, right) = ((edge(rows), edge(columns)) for edge in (np.min, np.max))
    turns = np.zeros((bottom - top + 1, right - left + 1), np.int32)
    np.add.at(turns, (rows - top, columns - left), np.sign(y1 - y0)[edges].astype(int))
    twice[top : bottom + 1, left:right] = np.abs(np.cumsum(turns, axis=1)[:, :-1]) > 1
    return twice


def _rescaled(size: tuple[int, int], height: int, width: int) -> Finding:
    if abs(size[0] * width / (size[1] * height) - 1) > _MAX_ASPECT_CHANGE:
        raise Rejected(
            "size_aspect",
            f"The label is made for {size[1]} x {size[0]} px and the image has {width} x {height} px: another shape, "
            "so it is no matter of scale. The image may be turned or cut.",
        )
    return Finding("size_rescaled", f"The label was scaled from {size[1]} x {size[0]} to {width} x {height} px.")


def _scaled(polygon: np.ndarray, size: tuple[int, int], height: int, width: int) -> np.ndarray:
    """Coordinates are those of pixel centres, so that the image's edge is at -0.5."""
    scale = np.array([width / size[1], height / size[0]])
    return (polygon + 0.5) * scale - 0.5


def _resized(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """By area: a pixel is in the mask where half of it is."""
    if mask.shape == (height, width):
        return mask
    shrinks = mask.shape[0] > height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=how) >= 0.5


def _check_polygons(polygons: Sequence[np.ndarray], height: int, width: int) -> None:
    short = sum(len(polygon) < 3 for polygon in polygons)
    if short:
        raise Rejected("short_polygon", f"{short} polygon(s) of {len(polygons)} have fewer than 3 points.")
    outside = _count_outside(polygons, height, width)
    if outside:
        points = np.concatenate(polygons)
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        raise Rejected(
            "polygon_outside",
            f"{outside} of {len(points)} polygon points lie outside the image of {width} x {height} px: they reach "
            f"from {left:.1f} to {right:.1f} in x, from {top:.1f} to {bottom:.1f} in y. Draw them inside; if the "
            "labels were made for another size, give it as label_size.",
        )


def _count_outside(shapes: Sequence[Shape], height: int, width: int) -> int:
    polygons = [shape for shape in shapes if isinstance(shape, np.ndarray)]
    if not polygons:
        return 0
    points = np.concatenate(polygons)
    limit = np.array([width, height]) - 1 + _MAX_OUTSIDE_PX
    return int(((points < -_MAX_OUTSIDE_PX) | (points > limit)).any(axis=1).sum())
