"""Labels that do not fit, drawn as they came."""

from collections.abc import Sequence

import cv2
import numpy as np

from sa2va_ray.pictures.overlay import to_rgb
from sa2va_ray.pictures.palette import BORDER, MASK, OUTSIDE

_MAX_REACH = 2.0  # image sizes that a canvas goes on beyond each border; labels farther out are cut off
_FIXED_POINT_BITS = 4  # cv2 draws at 1/16 px


def draw_polygons(image: np.ndarray, polygons: Sequence[np.ndarray], side_px: int) -> np.ndarray:
    """Raw polygons over their image, on a canvas that reaches as far as they do.

    A label made for another image size shows at a glance: the image's border is marked, what lies outside is grey.
    Points that are not finite are left out; a polygon of one or two points is drawn as dots.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        polygons: (P, 2) x, y in pixel centres.
        side_px: longer side of the canvas.

    Returns:
        RGB uint8.
    """
    height, width = image.shape[:2]
    size = np.array([width, height])
    polygons = [polygon[np.isfinite(polygon).all(axis=1)] for polygon in polygons]
    low, high = _extent(polygons, size)
    scale = side_px / (high - low).max()
    canvas = _paste(to_rgb(image), low, high, scale)
    for polygon in polygons:
        # Far beyond the canvas the direction of a line no longer shows, and cv2 has only 32 bits.
        _draw(canvas, (np.clip(polygon, low - 10 * size, high + 10 * size) + 0.5 - low) * scale)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    cv2.polylines(canvas, [_to_fixed((corners - low) * scale)], True, BORDER, 1, cv2.LINE_AA, _FIXED_POINT_BITS)
    return canvas


def _extent(polygons: Sequence[np.ndarray], size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top left and bottom right corner of the canvas as x, y, the image's pixels being [0, W) and [0, H)."""
    points = np.concatenate([[[0, 0]], *polygons, [size - 1]])
    low, high = points.min(axis=0), points.max(axis=0) + 1
    margin = 0.02 * size  # keeps the image's border off the canvas's
    return np.maximum(low, -_MAX_REACH * size) - margin, np.minimum(high, (1 + _MAX_REACH) * size) + margin


def _paste(image: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float) -> np.ndarray:
    """The image (H, W, 3) where it lies on the grey canvas from `low` to `high`."""
    width, height = np.maximum(1, np.rint((high - low) * scale)).astype(int)
    canvas = np.full((height, width, 3), OUTSIDE, np.uint8)
    place = np.array([[scale, 0, -low[0] * scale], [0, scale, -low[1] * scale]])
    place[:, 2] += 0.5 * (scale - 1)  # from pixel corners to pixel centres
    if scale < 1:
        image = cv2.blur(image, (round(1 / scale),) * 2)
    return cv2.warpAffine(
        image, place, (width, height), dst=canvas, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
    )


def _draw(canvas: np.ndarray, points: np.ndarray) -> None:
    fixed = _to_fixed(points)
    if len(fixed) > 2:
        cv2.polylines(canvas, [fixed], True, MASK, 1, cv2.LINE_AA, _FIXED_POINT_BITS)
    else:
        for point in fixed:
            cv2.circle(canvas, point.tolist(), 4 << _FIXED_POINT_BITS, MASK, -1, cv2.LINE_AA, _FIXED_POINT_BITS)


def _to_fixed(points: np.ndarray) -> np.ndarray:
    """x, y with pixel corners at whole numbers -> cv2's fixed point, where pixel centres are."""
    return np.rint((points - 0.5) * (1 << _FIXED_POINT_BITS)).astype(np.int32)
