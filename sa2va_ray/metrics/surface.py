"""How far the outlines of two masks are apart, after Nikolov et al. (arXiv 1809.04430) and their `surface-distance`.

An outline runs between pixels, closed along the border of the image. Its points are the corners where four pixels
meet, each with the length of outline that belongs to it, so that a slanted outline does not count more than a straight
one for the number of its pixels.
"""

import math

import cv2
import numpy as np
from scipy import ndimage

from sa2va_ray.metrics.overlap import check_shapes

TOLERANCE_PX = 1.0
"""Tolerance of the surface Dice. Two people's outlines of one vessel, and two ways to fill a polygon, differ by up to
about a pixel; with 2 px, a line beside a vessel of 2 px that does not touch it would count as right."""

Spacing = tuple[float, float]
"""From row to row, and from column to column, in a unit of length."""

_PERCENTILE = 0.95
_SQUARE = (1.0, 1.0)


def surface_metrics(prediction: np.ndarray, truth: np.ndarray, tolerance_px: float = TOLERANCE_PX) -> dict[str, float]:
    """How far two outlines are apart, by two metrics:

    - `hd95` in pixels: of the distances from either outline to the other, by length, the 95th percentile; the greater
      of the two directions. Two empty masks: 0. One empty mask: the diagonal of the image, sqrt(H^2 + W^2), which no
      two outlines can be apart.
    - `surface_dice` in [0, 1]: the share of both outlines that is at most `tolerance_px` from the other. Two empty
      masks: 1. One empty mask: 0.

    Args:
        prediction, truth: (H, W) bool.

    Raises:
        ValueError: masks of different shapes.
    """
    check_shapes(prediction, truth)
    if not prediction.any() and not truth.any():
        return {"hd95": 0.0, "surface_dice": 1.0}
    if not prediction.any() or not truth.any():
        return {"hd95": math.hypot(*truth.shape), "surface_dice": 0.0}
    lengths, true_lengths = _outline(prediction), _outline(truth)
    there, there_lengths = _distances(lengths, true_lengths)
    back, back_lengths = _distances(true_lengths, lengths)
    near = there_lengths[there <= tolerance_px].sum() + back_lengths[back <= tolerance_px].sum()
    return {
        "hd95": max(_percentile(there, there_lengths), _percentile(back, back_lengths)),
        "surface_dice": float(near / (there_lengths.sum() + back_lengths.sum())),
    }


def hd95_in(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> float:
    """`hd95` of `surface_metrics` in the unit of `spacing`, which may differ from row to row and from column to column.

    Args:
        prediction, truth: (H, W) bool.

    Raises:
        ValueError: masks of different shapes.
    """
    check_shapes(prediction, truth)
    if not prediction.any() or not truth.any():
        diagonal = math.hypot(truth.shape[0] * spacing[0], truth.shape[1] * spacing[1])
        return diagonal if prediction.any() or truth.any() else 0.0
    lengths, true_lengths = _outline(prediction, spacing), _outline(truth, spacing)
    ways = ((lengths, true_lengths), (true_lengths, lengths))
    return max(_percentile(*_distances(*way, spacing)) for way in ways)


def _outline(mask: np.ndarray, spacing: Spacing = _SQUARE) -> np.ndarray:
    """(H + 1, W + 1) float: length of outline at each corner of the pixels, 0 where there is none."""
    padded = np.pad(mask, 1).astype(np.uint8)
    return _lengths(*spacing)[padded[:-1, :-1] + 2 * padded[:-1, 1:] + 4 * padded[1:, :-1] + 8 * padded[1:, 1:]]


def _lengths(row: float, column: float) -> np.ndarray:
    """(16,): of the outline at a corner, by which of its four pixels (1, 2 above, 4, 8 below) are mask."""
    slanted = math.hypot(row, column) / 2
    return np.array(
        [
            *(0.0, slanted, slanted, column),
            *(slanted, row, 2 * slanted, slanted),
            *(slanted, 2 * slanted, row, slanted),
            *(column, slanted, slanted, 0.0),
        ]
    )


def _distances(outline: np.ndarray, other: np.ndarray, spacing: Spacing = _SQUARE) -> tuple[np.ndarray, np.ndarray]:
    """For each point of an outline: the distance to the other, and its length."""
    if spacing == _SQUARE:
        to_other = cv2.distanceTransform((other == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    else:
        to_other = ndimage.distance_transform_edt(other == 0, sampling=spacing)
    return to_other[outline > 0], outline[outline > 0]


def _percentile(distances: np.ndarray, lengths: np.ndarray) -> float:
    order = np.argsort(distances)
    shares = np.cumsum(lengths[order])
    place = int(np.searchsorted(shares / shares[-1], _PERCENTILE))
    return float(distances[order][min(place, len(order) - 1)])
