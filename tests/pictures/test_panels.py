"""A picture shows what was found, what was missed and what was invented."""

import numpy as np

from sa2va_ray.pictures.panels import FALSE_POSITIVE, HIT, MISS, three_panels


def test_each_kind_of_pixel_has_its_colour():
    image = np.full((40, 60, 3), 100, np.uint8)
    truth, prediction = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    truth[10:20], prediction[15:25] = True, True
    picture = three_panels(image, truth, prediction)
    assert picture.shape == (40, 3 * 60 + 2 * 4, 3)
    assert picture.dtype == np.uint8
    left, middle, right = picture[:, :60], picture[:, 64:124], picture[:, 128:]
    assert (left == 100).all()
    assert np.array_equal(middle.all(axis=2), truth)
    tints = {row: tuple(right[row, 30]) for row in (5, 12, 17, 22)}
    assert tints[5] == (100, 100, 100)
    for row, colour in ((12, MISS), (17, HIT), (22, FALSE_POSITIVE)):
        assert tints[row] == tuple(np.rint(0.25 * 100 + 0.75 * np.array(colour)).astype(int))
    assert (image == 100).all()  # the caller's own


def test_large_images_are_scaled():
    empty = np.zeros((1024, 768), bool)
    assert three_panels(np.zeros((1024, 768, 3), np.uint8), empty, empty).shape == (512, 3 * 384 + 2 * 4, 3)
