"""Tubed skeletons: of the stated width, cut to the mask."""

import cv2
import numpy as np
import pytest
from skimage.morphology import skeletonize

from sa2va_ray.images.skeleton import tubed_skeleton


def vessel(width_px: int) -> np.ndarray:
    """A straight vessel across an image of 101 x 201 pixels, not touching its borders."""
    mask = np.zeros((101, 201), bool)
    mask[50 - width_px // 2 : 51 + width_px // 2, 10:190] = True
    return mask


@pytest.mark.parametrize("radius_px", [0, 1, 2, 4])
def test_the_tube_has_the_radius(radius_px):
    tube = tubed_skeleton(vessel(21), radius_px)
    np.testing.assert_array_equal(tube[:, 60:140].sum(axis=0), 2 * radius_px + 1)


def test_the_paper_s_radius_is_two():
    assert tubed_skeleton(vessel(21), 2)[:, 100].sum() == 5


def test_the_tube_is_cut_to_the_mask():
    tree = np.zeros((120, 120), np.uint8)
    for end, width in (((110, 20), 1), ((100, 100), 3), ((20, 110), 9)):
        cv2.line(tree, (10, 10), end, 1, width)
    mask = tree.astype(bool)
    tube = tubed_skeleton(mask, 3)
    assert not np.any(tube & ~mask)
    assert np.all(tube[skeletonize(mask)])


def test_a_thin_vessel_is_all_tube():
    np.testing.assert_array_equal(tubed_skeleton(vessel(3), 2)[:, 20:180], vessel(3)[:, 20:180])


def test_nothing_has_no_skeleton():
    assert not tubed_skeleton(np.zeros((32, 48), bool), 2).any()
