import io

import numpy as np
from PIL import Image

from sa2va_ray.serve.http.encode.png import mask_to_png, probabilities_to_png
from sa2va_ray.serve.messages import to_uint16


def test_masks_have_eight_bits():
    mask = np.random.default_rng(1).random((13, 17)) < 0.5
    picture = Image.open(io.BytesIO(mask_to_png(mask)))
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), mask * 255)


def test_probabilities_have_sixteen_bits():
    exact = np.random.default_rng(1).random((13, 17), np.float32)
    probabilities = to_uint16(exact)
    picture = Image.open(io.BytesIO(probabilities_to_png(probabilities)))
    assert picture.mode.startswith("I;16")
    np.testing.assert_allclose(np.asarray(picture) / 65535, exact, atol=0.5 / 65535 + 1e-7)
    extremes = to_uint16(np.array([[0.0, 1.0]], np.float32))
    assert np.asarray(Image.open(io.BytesIO(probabilities_to_png(extremes)))).tolist() == [[0, 65535]]
