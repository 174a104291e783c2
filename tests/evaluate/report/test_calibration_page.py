"""What the page of a calibration says of its numbers."""

import re

import numpy as np
import pytest

from sa2va_ray.evaluate.inputs import MeasuredModel, Split
from sa2va_ray.evaluate.passes.cleanup_grid import CLEANUPS, CleanupScores
from sa2va_ray.evaluate.report.calibration_page import render_calibration
from sa2va_ray.metrics.patients import PatientCurves


@pytest.mark.parametrize(
    ("objective", "headings"),
    [
        ("dice", ["Mean Dice", "Mean recall"]),
        ("recall", ["Mean Dice, all questions", "Mean recall, object in the image"]),
    ],
)
def test_the_page_says_of_which_questions_its_means_are(objective, headings):
    curves = PatientCurves(["p"], {name: np.full((1, len(CLEANUPS)), 0.5) for name in ("dice", "recall")})
    calibration = {
        "objective": objective,
        "recall_target": 0.5,
        "value": 0.5,
        "interval_95": None,
        "num_images": 2,
        "num_patients": 1,
        "num_without_mask": 0,
        "data_sha256": "d" * 64,
        "split": "val",
        "split_sha256": "e" * 64,
        "expected_calibration_error": 0.1,
    }
    page = render_calibration(
        MeasuredModel("", {"name": "m", "files": {}}),
        Split("", "val", "d" * 64, "e" * 64, num_images=2),
        {"threshold": 0.5, "cleanup": CLEANUPS[0].model_dump(), "calibration": calibration},
        {**{name: [0.5] for name in ("thresholds", "dice", "precision", "recall")}, "dice_interval_95": None},
        {"ece": 0.1, "brier": 0.1, "bins": []},
        CleanupScores(of_objective=curves, of_all=curves),
    ).decode()
    table = page[page.index("What is done to the mask") :]
    assert re.findall(r">(Mean[^<]+)<", table) == headings
    assert ("It and the curves of the thresholds are of the questions whose object" in page) == (objective == "recall")
