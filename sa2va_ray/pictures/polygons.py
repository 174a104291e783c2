"""Pictures for people: masks over images, labels that do not fit, and a sheet of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANEL_PX = 320
"""Longer side of a drawn image."""

_FILL, _FILL_OPACITY = np.array([255, 60, 0], np.float32), 0.35
_EDGE, _EDGE_OPACITY = np.array([255, 214, 0], np.float32), 0.6
_LABEL = (255, 150, 0)
_BORDER = (0, 220, 255)
_OUTSIDE = (70, 70, 78)
_GAP_PX = 4
_MAX_REACH = 2.0  # image sizes that a canvas goes on beyond each border; labels farther out are cut off
_FIXED_POINT_BITS = 4  # cv2 draws at 1/16 px
_CAPTION_PX = 16


@dataclass(frozen=True)
class Picture:
    caption: str
    """Plain text without any name of the source."""
    image: Image.Image = field(repr=False)


@dataclass(frozen=True)
class Pictures:
    """What a report shows."""

    contact: list[Picture]
    """Samples that are used, with their masks."""
    worst: list[Picture]
    """Samples in quarantine and repaired ones; the caption has the reason."""


def overlay(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """The image, and beside it the same with the mask tinted and its outline just outside of it.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        mask: (H, W) bool.

    Returns:
        Two RGB panels with a longer side of `PANEL_PX` each.
    """
    shown = _to_rgb(_resize(image))
    coverage = _resize(mask.astype(np.float32))
    # Anything covered at all counts as inside, or a vessel of 1 px in a large image would not be drawn.
    inside = (coverage > 0).astype(np.uint8)
    edge = (cv2.dilate(inside, np.ones((3, 3), np.uint8)) - inside).astype(np.float32)
    marked = _blend(shown, _FILL, coverage * _FILL_OPACITY)
    marked = _blend(marked, _EDGE, edge * _EDGE_OPACITY)
    gap = np.full((len(shown), _GAP_PX, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([shown, gap, marked], axis=1))


def outlines(image: np.ndarray, shapes: Sequence[np.ndarray]) -> Image.Image:
    """The raw polygons over the image, on a canvas that reaches as far as they do.

    A label made for another image size shows at a glance: the image's border is marked, what lies outside is grey.
    Points that are not finite are left out; a polygon of one or two points is drawn as dots.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        shapes: polygons, (P, 2) x, y in pixel centres.

    Returns:
        RGB, longer side `PANEL_PX`.
    """
    height, width = image.shape[:2]
    size = np.array([width, height])
    polygons = [shape[np.isfinite(shape).all(axis=1)] for shape in shapes]
    low, high = _extent(polygons, size)
    scale = PANEL_PX / (high - low).max()
    canvas = _paste(image, low, high, scale)
    for polygon in polygons:
        # Far beyond the canvas the direction of a line no longer shows, and cv2 has only 32 bits.
        _draw(canvas, (np.clip(polygon, low - 10 * size, high + 10 * size) + 0.5 - low) * scale)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    cv2.polylines(canvas, [_to_fixed((corners - low) * scale)], True, _BORDER, 1, cv2.LINE_AA, _FIXED_POINT_BITS)
    return Image.fromarray(canvas)


def contact_sheet(pictures: Sequence[Picture], columns: int) -> Image.Image:
    """A grid of the pictures, each with its caption below, cut to the cell's width. RGB, white where nothing is."""
    width = max((picture.image.width for picture in pictures), default=PANEL_PX) + 2 * _GAP_PX
    height = max((picture.image.height for picture in pictures), default=0) + _CAPTION_PX + 2 * _GAP_PX
    rows = max(1, -(-len(pictures) // columns))
    sheet = Image.new("RGB", (width * min(columns, max(1, len(pictures))), height * rows), "white")
    font = ImageFont.load_default(size=12)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        cell = Image.new("RGB", (width, height), "white")
        cell.paste(picture.image, (_GAP_PX, _GAP_PX))
        caption = picture.caption.replace("\n", " ")
        ImageDraw.Draw(cell).text((_GAP_PX, height - _CAPTION_PX), caption, fill="black", font=font)
        sheet.paste(cell, (column * width, row * height))
    return sheet


def _resize(pixels: np.ndarray) -> np.ndarray:
    """(H, W, ...) -> the same with a longer side of `PANEL_PX`."""
    scale = PANEL_PX / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=_interpolation(scale))


def _interpolation(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST


def _to_rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _blend(image: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with `colour` over it; `opacity` (H, W) in [0, 1]."""
    share = opacity[..., None]
    return np.rint(image * (1 - share) + colour * share).astype(np.uint8)


def _extent(polygons: Sequence[np.ndarray], size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top left and bottom right corner of the canvas as x, y, the image's pixels being [0, W) and [0, H)."""
    points = np.concatenate([[[0, 0]], *polygons, [size - 1]])
    low, high = points.min(axis=0), points.max(axis=0) + 1
    margin = 0.02 * size  # keeps the image's border off the canvas's
    return np.maximum(low, -_MAX_REACH * size) - margin, np.minimum(high, (1 + _MAX_REACH) * size) + margin


def _paste(image: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float) -> np.ndarray:
    """The image where it lies on the grey canvas from `low` to `high`; (H, W, 3) uint8."""
    width, height = np.maximum(1, np.rint((high - low) * scale)).astype(int)
    canvas = np.full((height, width, 3), _OUTSIDE, np.uint8)
    place = np.array([[scale, 0, -low[0] * scale], [0, scale, -low[1] * scale]])
    place[:, 2] += 0.5 * (scale - 1)  # from pixel corners to pixel centres
    if scale < 1:
        image = cv2.blur(image, (round(1 / scale),) * 2)
    return cv2.warpAffine(
        _to_rgb(image), place, (width, height), dst=canvas, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
    )


def _draw(canvas: np.ndarray, points: np.ndarray) -> None:
    fixed = _to_fixed(points)
    if len(fixed) > 2:
        cv2.polylines(canvas, [fixed], True, _LABEL, 1, cv2.LINE_AA, _FIXED_POINT_BITS)
    else:
        for point in fixed:
            cv2.circle(canvas, point.tolist(), 4 << _FIXED_POINT_BITS, _LABEL, -1, cv2.LINE_AA, _FIXED_POINT_BITS)


def _to_fixed(points: np.ndarray) -> np.ndarray:
    """x, y with pixel corners at whole numbers -> cv2's fixed point, where pixel centres are."""
    return np.rint((points - 0.5) * (1 << _FIXED_POINT_BITS)).astype(np.int32)
