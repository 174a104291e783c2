"""A prediction beside its truth, for people."""

import cv2
import numpy as np

_PANEL_PX = 512
_GAP_PX = 4
# Yellow, vermilion and sky blue of Okabe and Ito: told apart with any colour vision, and on grey images.
HIT, MISS, FALSE_POSITIVE = (240, 228, 66), (213, 94, 0), (86, 180, 233)
_OPACITY = 0.75


def three_panels(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The image, its true mask in white, and the image with the prediction over it: `HIT` where it is right, `MISS`
    where vessel was not found, `FALSE_POSITIVE` where there is none.

    Args:
        image: (H, W, 3) uint8.
        truth, prediction: (H, W) bool.

    Returns:
        RGB uint8, three panels side by side; larger images are scaled to a longer side of 512 px.
    """
    white = np.full_like(image, 255)
    overlaid = image.copy()
    for colour, where in (
        (HIT, truth & prediction),
        (MISS, truth & ~prediction),
        (FALSE_POSITIVE, prediction & ~truth),
    ):
        overlaid[where] = np.rint((1 - _OPACITY) * image[where] + _OPACITY * np.array(colour))
    panels = [_fit(panel) for panel in (image, white * truth[..., None], overlaid)]
    gap = np.full((len(panels[0]), _GAP_PX, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def _fit(panel: np.ndarray) -> np.ndarray:
    height, width = panel.shape[:2]
    scale = _PANEL_PX / max(height, width)
    if scale >= 1:
        return panel
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(panel, size, interpolation=cv2.INTER_AREA)
