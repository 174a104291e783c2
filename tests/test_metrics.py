"""Overlap metrics on cases with known answers."""

import numpy as np
import pytest

from sa2va_ray.metrics import overlap_metrics


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
