"""A mask over its image. Shapes: H W pixels."""

import cv2
import numpy as np

from sa2va_ray.pictures.palette import BLACK, HATCH, MASK, Rgb

_OPACITY = 0.75
_HATCH_PX, _MOST_HATCHES = 8, 64  # from line to line at least, and lines along a side at most
_HATCH_SHADE = 0.5


def tinted(image: np.ndarray, mask: np.ndarray, colour: Rgb = MASK, opacity: float = _OPACITY) -> np.ndarray:
    """A copy of the image with a transparent colour where the mask is.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, or the share of each pixel that is covered, float in [0, 1].
        opacity: of a pixel that is covered, in [0, 1].
    """
    where = mask > 0
    share = opacity * mask[where][:, None].astype(np.float32)
    shown = image.copy()
    shown[where] = np.rint((1 - share) * image[where] + share * np.array(colour, np.float32))
    return shown


def outlined(image: np.ndarray, mask: np.ndarray, colour: Rgb = MASK, opacity: float = 1.0) -> np.ndarray:
    """A copy of the image with a line of 1 px just outside of the mask, so that it hides nothing of what the mask says.

    Args:
        as `tinted`. Any pixel that is covered at all counts as inside.
    """
    inside = (mask > 0).astype(np.uint8)
    edge = cv2.dilate(inside, np.ones((3, 3), np.uint8)) > inside
    return tinted(image, edge, colour, opacity)


def hatched(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A copy of the image, darker and with diagonal lines where what it shows does not count.

    Args:
        image: (H, W, 3) uint8.
        where: (H, W) bool.
    """
    period = max(_HATCH_PX, max(where.shape) // _MOST_HATCHES)
    diagonals = np.add.outer(np.arange(where.shape[0]), np.arange(where.shape[1])) % period
    lines = where & (diagonals < max(1, period // 8))
    return tinted(tinted(image, where, BLACK, _HATCH_SHADE), lines, HATCH)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) -> (H, W, 3)."""
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def fit(pixels: np.ndarray, side_px: int) -> np.ndarray:
    """(H, W, ...) -> the same with a longer side of `side_px`. Of a mask as float 0 and 1 the result is the share of
    each pixel that is covered; pixels of small images stay square."""
    scale = side_px / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(pixels, (width, height), interpolation=interpolation)
