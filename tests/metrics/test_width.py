"""Widths of vessels that were drawn with a known one."""

import numpy as np
import pytest
from skimage.morphology import skeletonize

from sa2va_ray.metrics import WIDTH_EDGES_PX, counts_by_width
from sa2va_ray.metrics.width import local_width

ONE_PX, FIVE_PX = 0, 3  # classes: up to 1.5 px, and 3.5 to 5.5


def line(row: int, width: int) -> np.ndarray:
    drawn = np.zeros((60, 80), bool)
    drawn[row : row + width, 10:70] = True
    return drawn


@pytest.mark.parametrize("width", range(1, 14))
def test_upright_vessels_are_as_wide_as_drawn(width):
    for vessel in (line(20, width), line(20, width).T):
        assert np.median(local_width(vessel)[skeletonize(vessel)]) == width


@pytest.mark.parametrize("degrees", [15, 30, 45])
@pytest.mark.parametrize("width", [2, 3, 5, 8])
def test_slanted_vessels_are_within_a_pixel(degrees, width):
    y, x = np.mgrid[-60:60, -60:60] + 0.3
    slope = np.radians(degrees)
    across, along = x * np.sin(slope) - y * np.cos(slope), x * np.cos(slope) + y * np.sin(slope)
    vessel = (np.abs(across) <= width / 2) & (np.abs(along) < 50)
    middle = skeletonize(vessel) & (np.abs(along) < 40)
    assert np.abs(local_width(vessel)[middle] - width).max() <= 1


def test_pixels_count_with_the_nearest_vessel():
    thin, thick = line(10, 1), line(40, 5)
    prediction = thick.copy()
    prediction[15, 10:30] = True  # 20 px wrong, nearer to the thin one
    hits, missed, wrong = counts_by_width(prediction, thin | thick)
    assert (hits[ONE_PX], missed[ONE_PX], wrong[ONE_PX]) == (0, 60, 20)
    assert (hits[FIVE_PX], missed[FIVE_PX], wrong[FIVE_PX]) == (300, 0, 0)
    assert hits.sum() + missed.sum() == (thin | thick).sum()


def test_every_pixel_is_in_one_class():
    random = np.random.default_rng(0)
    prediction, truth = random.random((64, 64)) < 0.4, random.random((64, 64)) < 0.3
    hits, missed, wrong = counts_by_width(prediction, truth).sum(axis=1)
    assert (hits, missed, wrong) == (
        (prediction & truth).sum(),
        (truth & ~prediction).sum(),
        (prediction & ~truth).sum(),
    )


def test_without_a_vessel_there_is_no_width():
    empty = np.zeros((5, 5), bool)
    assert counts_by_width(~empty, empty).tolist() == [[0] * len(WIDTH_EDGES_PX)] * 3
