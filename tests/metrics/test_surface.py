"""Outlines on cases with known answers; `test_references.py` has the rest."""

import math

import numpy as np
import pytest

from sa2va_ray.metrics import hd95_in, surface_metrics

EMPTY = np.zeros((30, 40), bool)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    drawn = EMPTY.copy()
    drawn[top : top + height, left : left + width] = True
    return drawn


def test_a_mask_against_itself():
    assert surface_metrics(box(5, 5, 10, 12), box(5, 5, 10, 12)) == {"hd95": 0.0, "surface_dice": 1.0}


def test_empty_masks_are_defined():
    assert surface_metrics(EMPTY, EMPTY) == {"hd95": 0.0, "surface_dice": 1.0}
    for pair in ((EMPTY, box(5, 5, 10, 12)), (box(5, 5, 10, 12), EMPTY)):
        assert surface_metrics(*pair) == {"hd95": math.hypot(30, 40), "surface_dice": 0.0}


def test_a_wider_vessel_is_as_far_off_as_it_is_wider():
    """Both cross the whole image, so that the sides that they share lie on its border."""
    narrow, wide = box(10, 0, 8, 40), box(7, 0, 14, 40)
    assert surface_metrics(narrow, wide, tolerance_px=3.0) == {"hd95": 3.0, "surface_dice": 1.0}
    # Too far are 35 points of either long side of the narrow one (3 at each end are near the border that both share),
    # and of the wide one 39 points and 2 corners; a point has 1 px of outline, a corner sqrt(2) / 2.
    far, outlines = 2 * 35 + 2 * (39 + 2**0.5), (92 + 2 * 2**0.5) + (104 + 2 * 2**0.5)
    assert surface_metrics(narrow, wide, tolerance_px=2.9)["surface_dice"] == pytest.approx(1 - far / outlines)


def test_a_speck_far_away_moves_hd95_only_when_it_is_long_enough():
    truth = box(2, 2, 20, 20)
    assert surface_metrics(truth | box(25, 36, 1, 1), truth)["hd95"] == 0.0  # 2.8 of 81 px of outline, 3.4 %
    assert surface_metrics(truth | box(24, 35, 2, 3), truth)["hd95"] > 12  # 8.8 of 87 px, 10 %


def test_a_line_beside_a_thin_vessel_is_wrong():
    """The default tolerance is meant for this: a line two pixels beside one of 2 px has no part of it in common."""
    vessel, beside = box(10, 5, 2, 30), box(12, 5, 2, 30)
    assert surface_metrics(beside, vessel)["surface_dice"] < 0.55
    assert surface_metrics(beside, vessel, tolerance_px=2)["surface_dice"] == 1.0


def test_masks_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        surface_metrics(EMPTY, np.zeros((40, 30), bool))


def test_distances_in_another_unit():
    mask, other = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    mask[5:15, 5:15] = other[8:20, 9:15] = True
    hd95 = surface_metrics(mask, other)["hd95"]
    assert hd95_in(mask, other, (0.25, 0.25)) == pytest.approx(0.25 * hd95)
    assert hd95_in(mask, other, (1, 1)) == hd95
    line, moved = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    line[5] = moved[8] = True
    assert hd95_in(line, moved, (0.5, 0.1)) == pytest.approx(1.5)
    assert hd95_in(line.T, moved.T, (0.1, 0.5)) == pytest.approx(1.5)
    tall = np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1)
    assert hd95_in(tall, tall, (0.5, 0.1)) == 0
    nothing = np.zeros((30, 40), bool)
    assert hd95_in(mask, nothing, (0.5, 0.1)) == pytest.approx(np.hypot(15, 4))
    assert hd95_in(nothing, nothing, (0.5, 0.1)) == 0


def test_an_outline_weighs_by_its_length_in_the_unit_of_the_spacing():
    """The upper side, four rows too high, is 0.04 of the outline where rows are far apart, and else 0.4."""
    mask, higher = box(9, 5, 20, 10), box(5, 5, 24, 10)
    assert hd95_in(higher, mask, (1, 0.1)) == 3
    assert hd95_in(higher.T, mask.T, (0.1, 1)) == 3
    assert hd95_in(higher, mask, (0.1, 1)) == pytest.approx(0.4)
