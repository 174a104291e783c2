"""Objects make images, images make patients, patients make the figure."""

import numpy as np
import pytest

from sa2va_ray.metrics.patients import PatientCurves, intervals, over_patients, per_image, per_patient

ROWS = [
    {"patient_id": "b", "sample_id": "4", "dice": 0.1},
    {"patient_id": "a", "sample_id": "1", "dice": 1.0},
    {"patient_id": "a", "sample_id": "1", "dice": 0.0},
    {"patient_id": "a", "sample_id": "2", "dice": 0.9},
]


def test_each_level_is_the_mean_of_the_one_below():
    patients = per_patient(ROWS, ["dice"])
    assert patients == {"a": {"num_images": 2, "dice": pytest.approx(0.7)}, "b": {"num_images": 1, "dice": 0.1}}
    assert list(patients) == ["a", "b"]
    assert over_patients(patients, ["dice"]) == {"dice": pytest.approx(0.4)}
    assert per_image(ROWS, ["dice"]) == {"dice": pytest.approx(0.5)}


def test_an_interval_is_over_patients():
    patients = per_patient(ROWS, ["dice"])
    assert intervals(patients, ["dice"]) == {"dice": pytest.approx((0.1, 0.7))}
    assert intervals({"a": patients["a"]}, ["dice"]) == {"dice": None}


def test_curves_are_averaged_in_the_same_way():
    def curves(row):
        return {"dice": row["dice"] * np.arange(3.0), "recall": np.ones(3)}

    found = PatientCurves.from_rows(ROWS, curves, ("dice", "recall"))
    assert found.patients == ["a", "b"]
    np.testing.assert_allclose(found.mean("dice"), 0.4 * np.arange(3))
    np.testing.assert_allclose(found.mean("recall"), 1)
    assert found.interval("dice", 1) == pytest.approx((0.1, 0.7))
