"""Masks and probabilities as PNG."""

import base64
import io

import numpy as np
from PIL import Image

from sa2va_ray.images.decode import to_png


def mask_to_png(mask: np.ndarray) -> bytes:
    """(H, W) bool -> PNG of 8 bits, 255 where the mask is set."""
    return to_png(mask * np.uint8(255))


def probabilities_to_png(probabilities: np.ndarray) -> bytes:
    """(H, W) uint16 -> grey PNG of 16 bits."""
    buffer = io.BytesIO()
    Image.fromarray(probabilities).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def mask_to_base64_png(mask: np.ndarray) -> str:
    """(H, W) bool -> base64 of `mask_to_png`."""
    return base64.b64encode(mask_to_png(mask)).decode()


def probabilities_to_base64_png(probabilities: np.ndarray) -> str:
    """(H, W) uint16 -> base64 of `probabilities_to_png`."""
    return base64.b64encode(probabilities_to_png(probabilities)).decode()
