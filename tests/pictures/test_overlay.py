"""Masks are drawn where they are, and hide nothing else."""

import numpy as np

from sa2va_ray.pictures.overlay import fit, outlined, tinted
from sa2va_ray.pictures.palette import MASK


def test_a_tint_is_where_the_mask_is_and_leaves_the_image_alone():
    image, mask = np.full((20, 30, 3), 100, np.uint8), np.zeros((20, 30), bool)
    mask[5:10, 5:25] = True
    shown = tinted(image, mask, opacity=0.75)
    np.testing.assert_array_equal((shown != 100).any(axis=2), mask)
    assert tuple(shown[7, 7]) == tuple(np.rint(0.25 * 100 + 0.75 * np.array(MASK)))
    assert (image == 100).all()
    half = tinted(image, mask * np.float32(0.5), opacity=0.75)
    assert tuple(half[7, 7]) == tuple(np.rint(0.625 * 100 + 0.375 * np.array(MASK)))


def test_an_outline_lies_just_outside_of_the_mask():
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), bool)
    mask[5:10, 5:25] = True
    line = outlined(image, mask)
    drawn = line.any(axis=2)
    assert not (drawn & mask).any()
    assert drawn.sum() == (5 + 2) * (20 + 2) - 5 * 20
    assert tuple(line[4, 4]) == MASK


def test_fit_keeps_the_shape_and_counts_what_is_covered():
    mask = np.zeros((1000, 400), bool)
    mask[:, 200] = True
    coverage = fit(mask.astype(np.float32), 100)
    assert coverage.shape == (100, 40)
    assert coverage.sum() * 100 == mask.sum()
    assert fit(np.zeros((10, 20, 3), np.uint8), 100).shape == (50, 100, 3)
