"""The picture that the demo leaves: image, mask and overlay side by side."""

import io

import numpy as np
from PIL import Image

_COLOUR = np.array([255, 32, 32])
_OPACITY = 0.7
_GAP = 8  # px between the panels


def overlay_picture(image_png: bytes, mask_png: bytes) -> Image.Image:
    """Three panels of the image's own size, on white."""
    image = np.asarray(Image.open(io.BytesIO(image_png)).convert("RGB"))
    mask = np.asarray(Image.open(io.BytesIO(mask_png)).convert("L")) > 0
    overlay = image.copy()
    overlay[mask] = ((1 - _OPACITY) * image[mask] + _OPACITY * _COLOUR).astype(np.uint8)
    gap = np.full((len(image), _GAP, 3), 255, np.uint8)
    white_on_black = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    return Image.fromarray(np.concatenate([image, gap, white_on_black, gap, overlay], axis=1))
