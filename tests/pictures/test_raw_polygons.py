"""Labels that do not fit are drawn as they came."""

import numpy as np
import pytest

from sa2va_ray.pictures.palette import BORDER
from sa2va_ray.pictures.raw_polygons import draw_polygons

PANEL_PX = 320


def border(picture):
    """Left, top, right, bottom of the frame that marks the image, in px."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - BORDER).max(axis=2) < 40)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_label_of_another_size_makes_the_canvas_larger():
    image = np.zeros((512, 512), np.uint8)
    square = np.array([[0, 0], [511, 0], [511, 511], [0, 511]], float)
    fits = border(draw_polygons(image, [square * 0.5], PANEL_PX))
    assert fits[2] - fits[0] > 0.9 * PANEL_PX
    picture = draw_polygons(image, [square * 800 / 512], PANEL_PX)
    left, top, right, bottom = border(picture)
    assert (right - left) / PANEL_PX == pytest.approx(512 / (800 + 2 * 0.02 * 512), abs=0.02)
    assert (left, right) == pytest.approx((top, bottom), abs=1)
    assert left < 10
    far = picture[-12:, -12:].astype(int)
    assert (far[..., 2] - far[..., 0]).max() > 100, "the label's far corner is not drawn"


@pytest.mark.parametrize(
    "shape",
    [
        np.zeros((0, 2)),
        np.array([[3.0, 4.0]]),
        np.array([[np.nan, 1.0], [np.inf, 2.0], [1.0, 1.0]]),
        np.array([[-1e300, 0.0], [1e18, 5.0], [5.0, -1e18]]),
    ],
)
def test_broken_polygons_are_drawn_as_far_as_they_can(shape):
    picture = draw_polygons(np.zeros((40, 60, 3), np.uint8), [shape], PANEL_PX)
    assert max(picture.shape) == PANEL_PX
    left, top, right, bottom = border(picture)
    assert (right - left) / (bottom - top) == pytest.approx(60 / 40, rel=0.1)


def test_outlines_lie_where_the_pixels_are():
    image = np.zeros((32, 32), np.uint8)
    image[8:24, 8:24] = 255
    square = np.array([[8, 8], [23, 8], [23, 23], [8, 23]], float)
    drawn = draw_polygons(image, [square], PANEL_PX).astype(int)
    is_label = drawn[..., 2] - drawn[..., 0] > 100
    is_white = (drawn > 250).all(axis=2)
    scale = PANEL_PX / (32 * 1.04)
    for axis in (0, 1):
        label, white = (np.nonzero(marks.any(axis=axis))[0] for marks in (is_label, is_white))
        assert label.min() - white.min() == pytest.approx(scale / 2, abs=2 + scale / 2)
        assert label.mean() == pytest.approx(white.mean(), abs=1)
