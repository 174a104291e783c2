"""The client stands alone, and so has a copy of a rule of `pixels_sa2va`: both must say the same."""

import io

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.client import encoding
from sa2va_ray.models.sa2va import pixels_sa2va


def saved(array: np.ndarray, suffix: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, suffix, **options)
    return buffer.getvalue()


GREY, WIDE = np.zeros((4, 5), np.uint8), np.full((4, 5), 300, np.uint16)
FILES = {
    "PNG of 8 bits": (saved(GREY, "PNG"), False),
    "PNG of 16 bits": (saved(WIDE, "PNG"), True),
    "JPEG 2000 of 8 bits": (saved(GREY, "JPEG2000"), False),
    "JPEG 2000 of 16 bits": (saved(WIDE, "JPEG2000"), True),
    "PGM of 8 bits": (b"P5 5 4 255\n" + bytes(20), False),
    "PGM of 16 bits": (b"P5 5 4 1023\n" + bytes(40), True),
    "plain PGM of 16 bits": (b"P2 5 4 1023\n" + b"7 " * 20, True),
    "SGI of 8 bits": (saved(GREY, "SGI"), False),
    "SGI of 16 bits": (saved(GREY, "SGI", bpc=2), True),
}


@pytest.mark.parametrize("name", FILES)
def test_the_client_and_the_model_see_the_same_wide_sources(name):
    data, is_wide = FILES[name]
    for module in (encoding, pixels_sa2va):
        assert module._has_wide_source(Image.open(io.BytesIO(data))) == is_wide
