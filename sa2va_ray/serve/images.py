"""From the bytes that a request brings to pixels."""

import numpy as np

from sa2va_ray.data.images import ImageError, decode_image_bytes
from sa2va_ray.serve.problems import Problem

_TOO_LARGE = "image_too_large"
_STATUS = {_TOO_LARGE: (413, "Image too large"), "image_unreadable": (415, "Not an image")}
_OTHER = (422, "Broken image")


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """PNG, JPEG, TIFF, BMP, WebP or DICOM, one image -> (H, W) or (H, W, 3) uint8.

    Raises:
        Problem: not an image, a broken one, several, or more pixels than allowed, which is checked before decoding.
    """
    try:
        return decode_image_bytes(data, max_pixels)
    except ImageError as error:
        status, title = _STATUS.get(error.code, _OTHER)
        raise Problem(status, title, error.reason, "Send one image as PNG, JPEG, TIFF, BMP, WebP or DICOM.") from None


def decode_if_small(data: bytes, max_pixels: int) -> np.ndarray | None:
    """None in place of an image of more pixels. Raises as `decode_image` does."""
    try:
        return decode_image(data, max_pixels)
    except Problem as problem:
        if problem.title != _STATUS[_TOO_LARGE][1]:
            raise
        return None
