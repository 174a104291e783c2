"""How well thin vessels are found, and thick ones."""

import cv2
import numpy as np
from skimage.morphology import skeletonize

from sa2va_ray.metrics.overlap import check_shapes

WIDTH_EDGES_PX = (0.0, 1.5, 2.5, 3.5, 5.5, 8.5, 12.5)
"""Lower ends of the classes of width; the last has no upper end."""


def counts_by_width(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(3, 7) int64: pixels that are found, missed, and drawn where no vessel is, by the local width of the true vessel
    that is nearest, in the classes of `WIDTH_EDGES_PX`. All 0 where the truth is empty: no vessel is near.

    Args:
        prediction, truth: (H, W) bool.

    Raises:
        ValueError: masks of different shapes.
    """
    check_shapes(prediction, truth)
    if not truth.any():
        return np.zeros((3, len(WIDTH_EDGES_PX)), np.int64)
    skeleton = skeletonize(truth)
    classes = np.digitize(local_width(truth)[skeleton], WIDTH_EDGES_PX) - 1
    # Labels count the pixels of the skeleton in the order in which indexing by a mask takes them.
    _, labels = cv2.distanceTransformWithLabels(
        (~skeleton).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = classes[labels - 1]
    parts = (truth & prediction, truth & ~prediction, prediction & ~truth)
    return np.stack([np.bincount(nearest[part], minlength=len(WIDTH_EDGES_PX)) for part in parts])


def local_width(mask: np.ndarray) -> np.ndarray:
    """(H, W) float in pixels: twice the distance to the nearest background, which on the middle line of a vessel is its
    width: exactly for upright vessels, to within a pixel for slanted ones."""
    doubled = np.pad(mask, 1).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    distances = cv2.distanceTransform(doubled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    height, width = mask.shape
    return distances.reshape(height + 2, 2, width + 2, 2).max(axis=(1, 3))[1:-1, 1:-1]
