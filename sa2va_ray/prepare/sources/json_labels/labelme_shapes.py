"""The shapes of LabelMe and of its relatives (X-AnyLabeling, AnyLabeling): what has an area becomes one."""

import base64
import math
from typing import Any

import numpy as np

from sa2va_ray.images.decode import ImageError, decode_mask_bytes
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.prepare.records import Rejected, Shape
from sa2va_ray.prepare.sources.outlines import ellipse_outline
from sa2va_ray.prepare.sources.shapes import to_polygon, wrong_type

_WITHOUT_AREA = ("line", "linestrip", "point", "points")
_OF_FOUR_CORNERS = ("rectangle", "rotation", "oriented_rectangle", "rotated_rectangle")


def to_shape(shape: dict[str, Any], size: tuple[int, int] | None, max_pixels: int) -> Shape:
    """A polygon, or the run lengths of a mask.

    Args:
        size: (H, W) of the frame that it is drawn in; a mask needs it.
        max_pixels: largest H * W of a mask.

    Raises:
        Rejected: a shape without area, of an unknown type, or whose points are not those of its type.
    """
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")  # version 3 wrote none, or null
    if kind == "polygon":
        return to_polygon(points)
    if kind == "mask":
        return _to_mask(shape.get("mask"), _corners(points, "mask", 2), size, max_pixels)
    if kind == "circle":
        centre, edge = _corners(points, "circle", 2)
        radius = math.dist(centre, edge)
        return ellipse_outline(centre, np.array([radius, 0.0]), np.array([0.0, radius]), max_pixels)
    if kind == "ellipse":
        return _from_ellipse(points, max_pixels)
    if kind == "rectangle" and isinstance(points, list) and len(points) == 2:
        first, second = _corners(points, "rectangle", 2)
        return np.array([first, [second[0], first[1]], second, [first[0], second[1]]])
    if kind in _OF_FOUR_CORNERS:
        return _corners(points, "rectangle", 4)
    if kind in _WITHOUT_AREA:
        raise Rejected(
            "shape_type",
            f"A shape of type {kind} has no area. Draw it as a polygon, take it out, or name its label in "
            "`ignore_labels`.",
        )
    raise Rejected("shape_type", "A shape is of a type that is unknown, so its area is, too.")


def _corners(points: Any, kind: str, number: int) -> np.ndarray:
    """(number, 2) float x, y."""
    found = len(points) if isinstance(points, list) else 0
    if found != number:
        raise Rejected("wrong_type", f"A {kind} has {found} points; it needs {number}.")
    if not all(isinstance(each, list) and len(each) == 2 for each in points):
        raise Rejected("wrong_type", f"The points of a {kind} are not pairs of x and y.")
    return to_polygon([*points, *points[: max(0, 3 - number)]])[:number]  # whose checks are of at least 3 points


def _from_ellipse(points: Any, max_pixels: int) -> np.ndarray:
    """Two opposite corners of the box around it, or the centre and an end of each half axis."""
    if isinstance(points, list) and len(points) == 3:
        centre, first, second = _corners(points, "ellipse", 3)
        return ellipse_outline(centre, first - centre, second - centre, max_pixels)
    low, high = _corners(points, "ellipse", 2)
    half = abs(high - low) / 2
    return ellipse_outline((low + high) / 2, np.array([half[0], 0.0]), np.array([0.0, half[1]]), max_pixels)


def _to_mask(encoded: Any, corners: np.ndarray, size: tuple[int, int] | None, max_pixels: int) -> dict[str, Any]:
    """A PNG in base64 that is laid over the image from its first corner on."""
    if size is None:
        raise Rejected("wrong_type", "A mask shape needs imageHeight and imageWidth, and the file states none.")
    if math.prod(size) > max_pixels:
        raise Rejected("label_too_large", f"A mask shape is for {math.prod(size)} pixels; at most {max_pixels} go.")
    part = _decode_mask(encoded, max_pixels)
    left, top = np.rint(corners.min(axis=0)).astype(int)
    height, width = part.shape
    if min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        raise Rejected(
            "polygon_outside",
            f"A mask shape of {width} x {height} px at ({left}, {top}) reaches out of the image of {size[1]} x "
            f"{size[0]} px.",
        )
    box_width, box_height = np.ptp(corners, axis=0)
    if abs(width - box_width - 0.5) > 1 or abs(height - box_height - 0.5) > 1:  # the last pixel may count or not
        raise Rejected(
            "label_sizes",
            f"The picture of a mask shape has {width} x {height} px, its box {box_width:g} x {box_height:g}; where it "
            "lies is unknown.",
        )
    whole = np.zeros(size, bool)
    whole[top : top + height, left : left + width] = part
    return mask_to_rle(whole)


def _decode_mask(encoded: Any, max_pixels: int) -> np.ndarray:
    if not isinstance(encoded, str):
        raise wrong_type("The picture of a mask shape", "a text in base64", encoded)
    try:
        return decode_mask_bytes(base64.b64decode("".join(encoded.split()), validate=True), max_pixels)
    except ImageError as error:
        reason = error.reason
    except ValueError as error:  # of base64
        reason = f"it is not in base64: {error}."
    raise Rejected("mask_unreadable", f"Of a mask shape: {reason}")
