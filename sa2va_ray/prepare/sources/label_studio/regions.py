"""From a region of Label Studio to a shape. Its coordinates are percent of the image's width and height."""

import math
from typing import Any

import numpy as np

from sa2va_ray.images.brush_rle import brush_rle_to_mask
from sa2va_ray.images.decode import ImageError
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.prepare.records import Rejected, Shape
from sa2va_ray.prepare.sources.outlines import ellipse_outline
from sa2va_ray.prepare.sources.shapes import to_polygon, wrong_type

BRUSH = "brush"
AREAS = (BRUSH, "polygon", "rectangle", "ellipse")
"""Kinds of regions that have an area."""
MARKS = ("keypoint",)
"""Kinds of regions that have none."""

_MOST = 10**6  # percent, or degrees


def to_shape(kind: str, value: dict[str, Any], size: tuple[int, int], max_pixels: int) -> Shape:
    """A polygon, or the run lengths of a brush.

    Args:
        kind: one of `AREAS`.
        size: (H, W) of the image that it was drawn on.
        max_pixels: largest H * W of a brush.

    Raises:
        Rejected: values that are not those of its kind, or run lengths of another size.
    """
    if kind == BRUSH:
        return _to_mask(value.get("rle"), size, max_pixels)
    if kind == "polygon":
        return _to_polygon(value, size)
    return _to_rectangle(value, size) if kind == "rectangle" else _to_ellipse(value, size, max_pixels)


def kind_of_value(value: dict[str, Any]) -> str:
    """Kind of a region by what it holds, where nothing else tells it; empty for what is no region."""
    if "rle" in value:
        return BRUSH
    if "points" in value:
        return "polygon"
    if "radiusX" in value:
        return "ellipse"
    if "x" in value and "y" in value:
        return "rectangle" if "height" in value else "keypoint"
    return ""


def _to_mask(rle: Any, size: tuple[int, int], max_pixels: int) -> dict[str, Any]:
    if not isinstance(rle, list):
        raise wrong_type("The `rle` of a brush", "a list of bytes", rle)
    if math.prod(size) > max_pixels:
        raise Rejected("label_too_large", f"A brush is for {math.prod(size)} pixels; at most {max_pixels} go.")
    try:
        return mask_to_rle(brush_rle_to_mask(rle, *size))
    except ImageError as error:
        raise Rejected(error.code, error.reason) from None


def _to_polygon(value: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    if value.get("closed", True) is not True:
        raise Rejected("shape_type", "A polygon is not closed, so it has no area. Close it, or take it out.")
    return _to_pixels(to_polygon(value.get("points")) / 100, size)


def _to_rectangle(value: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Turned clockwise around its first corner, which is the left upper one of a rectangle that is not turned."""
    x, y, width, height = _numbers(value, "rectangle", "x", "y", "width", "height")
    across, down = _axes(value, "rectangle", width, height, size)
    corner = _to_pixels(np.array([x, y]) / 100, size)
    return np.array([corner, corner + across, corner + across + down, corner + down])


def _to_ellipse(value: dict[str, Any], size: tuple[int, int], max_pixels: int) -> np.ndarray:
    x, y, radius_x, radius_y = _numbers(value, "ellipse", "x", "y", "radiusX", "radiusY")
    across, down = _axes(value, "ellipse", radius_x, radius_y, size)
    return ellipse_outline(_to_pixels(np.array([x, y]) / 100, size), across, down, max_pixels)


def _axes(
    value: dict[str, Any], kind: str, width: float, height: float, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Two sides that stand on each other, each as x, y in pixels, turned as `rotation` says."""
    angle = math.radians(_numbers(value, kind, "rotation")[0] if value.get("rotation") is not None else 0.0)
    width, height = width / 100 * size[1], height / 100 * size[0]
    cos, sin = math.cos(angle), math.sin(angle)
    return width * np.array([cos, sin]), height * np.array([-sin, cos])


def _to_pixels(shares: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(..., 2) x, y as shares of the image -> in pixel centres, so that the image's edge is at -0.5."""
    return shares * [size[1], size[0]] - 0.5


def _numbers(value: dict[str, Any], kind: str, *names: str) -> list[float]:
    numbers = [value.get(name) for name in names]
    if not all(isinstance(number, int | float) and abs(number) <= _MOST for number in numbers):
        raise Rejected("wrong_type", f"Of a region of kind {kind} {', '.join(names)} are not all numbers of percent.")
    return [float(number) for number in numbers if number is not None]
