"""From probabilities to masks: the threshold, then what is done to a mask so that it looks like vessels."""

import cv2
import numpy as np
from pydantic import Field

from sa2va_ray.config import Config

_MAX_RADIUS_PX = 256  # 2 s on 64 megapixels; twice the radius takes twice as long
_MAX_AREA_PX = 2**31 - 1  # OpenCV's count of a component's pixels


class CleanupConfig(Config):
    """Steps in the order in which they are done; a value of 0 leaves a step out. Nothing is done by default."""

    close_px: int = Field(0, ge=0, le=_MAX_RADIUS_PX)
    """Radius of the closing, which bridges gaps of up to twice as many pixels: its element is a square of
    2 x radius + 1 pixels a side, so 1 is the usual 3x3."""
    open_px: int = Field(0, ge=0, le=_MAX_RADIUS_PX)
    """Radius of the opening, with the same element. It takes away all that is narrower: 1 deletes vessels of 2 px."""
    min_component_px: int = Field(0, ge=0, le=_MAX_AREA_PX)
    """Components (8-connected) of fewer pixels are removed."""
    max_hole_px: int = Field(0, ge=0, le=_MAX_AREA_PX)
    """Holes (4-connected background that the mask encloses) of up to so many pixels are filled. Background that
    touches the border of the image is no hole."""


NO_CLEANUP = CleanupConfig()


def to_masks(probabilities: np.ndarray, threshold: float, cleanup: CleanupConfig) -> np.ndarray:
    """(N, H, W) float -> (N, H, W) bool: above the threshold, then cleaned, each mask on its own."""
    return clean_masks(probabilities > threshold, cleanup)


def clean_masks(masks: np.ndarray, cleanup: CleanupConfig) -> np.ndarray:
    """`clean_mask` of each of (N, H, W)."""
    if cleanup == NO_CLEANUP or not len(masks):
        return masks
    return np.stack([clean_mask(mask, cleanup) for mask in masks])


def clean_mask(mask: np.ndarray, cleanup: CleanupConfig) -> np.ndarray:
    """Closes, opens, removes small components and fills small holes, in this order.

    Beyond the border of the image there is background for the closing, and foreground for the opening: what is at the
    border is neither widened nor eaten away.

    Args:
        mask: (H, W) bool; not changed.

    Returns:
        (H, W) bool.
    """
    cleaned: np.ndarray = mask.astype(np.uint8)
    if cleanup.close_px:
        cleaned = _closed(cleaned, cleanup.close_px)
    if cleanup.open_px:
        cleaned = cv2.morphologyEx(cleaned, cv2.MORPH_OPEN, _square(cleanup.open_px))
    if cleanup.min_component_px:
        labels, stats = _components(cleaned, connectivity=8)
        is_large = stats[:, cv2.CC_STAT_AREA] >= cleanup.min_component_px
        cleaned &= is_large[labels]
    if cleanup.max_hole_px:
        labels, stats = _components(1 - cleaned, connectivity=4)
        is_hole = (stats[:, cv2.CC_STAT_AREA] <= cleanup.max_hole_px) & ~_touches_border(stats, *mask.shape)
        is_hole[0] = False  # label 0 is the mask itself
        cleaned |= is_hole[labels]
    return cleaned.astype(bool)


def _closed(binary: np.ndarray, radius_px: int) -> np.ndarray:
    # OpenCV's own border would join a vessel to the border that it runs beside.
    around = np.pad(binary, radius_px)
    closed = cv2.morphologyEx(around, cv2.MORPH_CLOSE, _square(radius_px))
    return closed[radius_px:-radius_px, radius_px:-radius_px].copy()


def _square(radius_px: int) -> np.ndarray:
    side = 2 * radius_px + 1
    return np.ones((side, side), np.uint8)


def _components(binary: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) labels, 0 where `binary` is 0, and the statistics of each label."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=connectivity)
    return labels, stats


def _touches_border(stats: np.ndarray, height: int, width: int) -> np.ndarray:
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    return (left == 0) | (top == 0) | (right == width) | (bottom == height)
