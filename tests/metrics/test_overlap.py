"""Overlap on cases with known answers."""

import numpy as np
import pytest

from sa2va_ray.metrics import cldice, overlap_metrics


def mask(*columns: int) -> np.ndarray:
    row = np.zeros(8, bool)
    row[list(columns)] = True
    return np.tile(row, (4, 1))


def test_known_overlap():
    # 2 of 3 predicted columns are right, 2 of 4 true columns are found.
    assert overlap_metrics(mask(0, 1, 7), mask(0, 1, 2, 3)) == pytest.approx(
        {"dice": 4 / 7, "iou": 2 / 5, "precision": 2 / 3, "recall": 2 / 4}
    )


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [(mask(1), mask(1), 1.0), (mask(), mask(), 1.0), (mask(), mask(1), 0.0), (mask(1), mask(), 0.0)],
)
def test_full_empty_and_one_sided(prediction, truth, expected):
    assert set(overlap_metrics(prediction, truth).values()) == {expected}


def test_masks_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 8\).*\(8, 8\) differ"):
        overlap_metrics(mask(), np.zeros((8, 8), bool))


def line(row: int, left: int, right: int, width: int = 1) -> np.ndarray:
    """A horizontal vessel on an image of 32 x 64."""
    drawn = np.zeros((32, 64), bool)
    drawn[row - width // 2 : row + width // 2 + 1, left:right] = True
    return drawn


def test_cldice_of_a_shifted_piece_by_hand():
    # All 20 px found lie on the vessel of 40 px: precision 1, sensitivity one half.
    assert cldice(line(16, 10, 30), line(16, 10, 50)) == pytest.approx(2 / 3)
    # Half of the 40 px drawn lie on the 30 px of the truth: precision 20 / 40, sensitivity 20 / 30.
    assert cldice(line(16, 10, 50), line(16, 30, 60)) == pytest.approx(4 / 7)


def test_cldice_counts_length_and_not_width():
    thick, thin = line(16, 5, 55, width=7), line(16, 5, 55)
    assert overlap_metrics(thin, thick)["dice"] < 0.3
    # The skeleton of a wide line is its middle but for a pixel or two at the ends.
    assert cldice(thin, thick) > 0.97
    assert cldice(thick, thin) > 0.97


def test_cldice_sees_a_gap_that_dice_hardly_sees():
    truth = line(16, 4, 60, width=5) | line(8, 20, 40)
    without_branch = line(16, 4, 60, width=5)
    assert overlap_metrics(without_branch, truth)["dice"] > 0.96
    assert cldice(without_branch, truth) < 0.9


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (line(16, 0, 0), line(16, 0, 0), 1.0),
        (line(16, 0, 0), line(16, 5, 9), 0.0),
        (line(16, 5, 9), line(16, 0, 0), 0.0),
        (line(4, 5, 60), line(16, 5, 60), 0.0),  # nothing in common
        (np.ones((32, 64), bool), np.ones((32, 64), bool), 1.0),
    ],
)
def test_cldice_of_empty_full_and_disjoint_masks(prediction, truth, expected):
    assert cldice(prediction, truth) == expected


def test_cldice_refuses_masks_of_other_sizes():
    with pytest.raises(ValueError, match="differ in size"):
        cldice(mask(), np.zeros((8, 8), bool))
