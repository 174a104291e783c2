"""The ground truth of Skeleton Recall (Kirchhoff et al., ECCV 2024, arXiv 2404.03010)."""

import cv2
import numpy as np
from skimage.morphology import skeletonize

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def tubed_skeleton(mask: np.ndarray, radius_px: int) -> np.ndarray:
    """The pixels of a mask that are at most `radius_px` steps, to one of four neighbours each, from its skeleton.

    As in the authors' code (MIC-DKFZ/Skeleton-Recall), the widened skeleton is cut to the mask, which the paper calls
    class assignment: the tube never asks for vessel where the mask has none, and a vessel no wider than the tube is
    all tube.

    Args:
        mask: (H, W) bool.
        radius_px: 2 in the paper's own experiments; 0 gives the skeleton itself.

    Returns:
        (H, W) bool; empty where the mask is.
    """
    skeleton = skeletonize(mask).astype(np.uint8)
    return cv2.dilate(skeleton, _CROSS, iterations=radius_px).astype(bool) & mask
