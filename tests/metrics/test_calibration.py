"""Calibration errors of probabilities that are known to be right, or wrong by a known amount."""

import numpy as np
import pytest

from sa2va_ray.metrics import calibration_counts, calibration_errors


def test_by_hand():
    probabilities = np.array([[0.1, 0.1, 0.9, 0.9]])
    truth = np.array([[False, True, True, True]])
    # Two bins of two pixels: |0.1 - 0.5| and |0.9 - 1.0|; squares 0.01, 0.81, 0.01, 0.01.
    assert calibration_errors(calibration_counts(probabilities, truth)) == pytest.approx({"ece": 0.25, "brier": 0.21})


def test_certain_and_right_or_wrong():
    truth = np.array([[True, False]])
    assert calibration_errors(calibration_counts(truth.astype(float), truth)) == {"ece": 0.0, "brier": 0.0}
    assert calibration_errors(calibration_counts(1.0 - truth, truth)) == {"ece": 1.0, "brier": 1.0}
    assert calibration_counts(truth.astype(float), truth).shape == (4, 15)  # as of images without a certain pixel


def test_true_probabilities_have_no_error_and_shifted_ones_the_shift():
    random = np.random.default_rng(0)
    probabilities = random.uniform(0.2, 0.8, (1000, 1000))
    truth = random.random((1000, 1000)) < probabilities
    # A bin's share of 100,000 pixels has a standard deviation of 0.0016.
    assert calibration_errors(calibration_counts(probabilities, truth))["ece"] < 0.003
    assert calibration_errors(calibration_counts(probabilities + 0.15, truth))["ece"] == pytest.approx(0.15, abs=0.003)


def test_counts_of_images_add_up():
    random = np.random.default_rng(1)
    probabilities, truth = random.random((6, 50)), random.random((6, 50)) < 0.3
    parts = sum(calibration_counts(p, t) for p, t in zip(np.split(probabilities, 3), np.split(truth, 3), strict=True))
    assert calibration_errors(parts) == pytest.approx(calibration_errors(calibration_counts(probabilities, truth)))
