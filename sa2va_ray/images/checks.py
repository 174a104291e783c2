"""What every decoder of images checks, and how its errors are told."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
from PIL import Image

from sa2va_ray.models.sa2va.pixels_sa2va import ImageError

_BROKEN_DATA = (  # what decoders raise for it; others, like `MemoryError`, tell something else
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, cv2.error, struct.error, zlib.error),
)


def is_dicom(data: bytes) -> bool:
    """Whether a file begins as DICOM files do."""
    return data[128:132] == b"DICM"


def check_num_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raises `ImageError` if an image is empty or has more than `max_pixels`."""
    if not 0 < height * width <= max_pixels:
        raise ImageError(
            "image_too_large",
            f"The image says it has {width} x {height} px; 1 to {max_pixels} px are decoded. Make it smaller, or raise "
            "the limit.",
        )


def several_images(content: str) -> ImageError:
    """For a file of which it is not said which image is meant; `content` says how many."""
    return ImageError("image_frames", f"The file holds {content}; name one, or write one file for each.")


def no_frame(frame: int) -> ImageError:
    """For a file that has no image with that number."""
    return ImageError("image_frames", f"The file has no image with the number {frame}, counted from 0.")


@contextmanager
def codec_errors(*more: type[Exception]) -> Iterator[None]:
    """Turns what a decoder raises for broken data into `ImageError`. Goes around calls of decoders and nothing else, so
    that a fault of this program keeps its own name.

    Args:
        more: exceptions that the decoder has of its own.
    """
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(
            "image_too_large",
            f"The image is larger than Pillow decodes here (Image.MAX_IMAGE_PIXELS, "
            f"{Image.MAX_IMAGE_PIXELS}); make it smaller.",
        ) from None
    except _BROKEN_DATA + more:
        raise ImageError(
            "image_unreadable", "The image file is broken, cut off, or of a kind that is not read; save it as PNG."
        ) from None
