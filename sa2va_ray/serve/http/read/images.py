"""Decoding the image of a request, whose faults become problems."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sa2va_ray.images.checks import check_num_pixels
from sa2va_ray.images.decode import ImageError, decode_image_bytes, read_size
from sa2va_ray.images.files import IMAGE_KINDS
from sa2va_ray.serve.problems import Problem

_STATUS = {"image_too_large": (413, "Image too large"), "image_unreadable": (415, "Not an image")}
_OTHER = (422, "Broken image")
_CURE = f"Send one image as {', '.join(sorted(IMAGE_KINDS))} or DICOM."


def read_num_pixels(data: bytes, max_pixels: int) -> int:
    """Height times width, as the file's header says.

    Raises:
        Problem: those of `decode_upload`, as far as the header tells.
    """
    with _problems():
        height, width = read_size(data)
        check_num_pixels(height, width, max_pixels)
    return height * width


def decode_upload(data: bytes, max_pixels: int) -> np.ndarray:
    """A file of one image, of a kind of `IMAGE_KINDS` or DICOM -> (H, W) or (H, W, 3) uint8.

    Raises:
        Problem: not an image, a broken one, several, or more pixels than allowed, which is checked before decoding.
    """
    with _problems():
        return decode_image_bytes(data, max_pixels)


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        status, title = _STATUS.get(error.code, _OTHER)
        raise Problem(status, title, error.reason, _CURE) from None
