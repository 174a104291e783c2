"""Images of requests: every kind that jobs read is read at the endpoint, too."""

import gzip
import io

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.serve.http.read.images import decode_upload, read_num_pixels
from sa2va_ray.serve.problems import Problem

PIXELS = np.arange(200, dtype=np.uint8).reshape(10, 20)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP"])
def test_images_of_public_data_sets_are_read(kind):
    data = encoded(kind)
    assert read_num_pixels(data, 200) == 200
    np.testing.assert_array_equal(decode_upload(data, 200), PIXELS)
    for read in (read_num_pixels, decode_upload):
        with pytest.raises(Problem) as caught:
            read(data, 199)
        assert caught.value.status == 413


def test_what_is_no_image_is_told_what_is_one():
    with pytest.raises(Problem) as caught:
        decode_upload(gzip.compress(encoded("PPM")), 200)
    assert (caught.value.status, "gunzip" in caught.value.detail) == (415, True)
    assert "BMP, GIF, JPEG, PNG, PNM, TIFF, WebP or DICOM" in caught.value.cure
