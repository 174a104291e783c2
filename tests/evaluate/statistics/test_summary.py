"""From rows of objects to figures, by hand."""

import numpy as np
import pytest

from sa2va_ray.evaluate.statistics.summary import (
    by_phrase,
    by_width,
    differences,
    precision_recall,
    probability_calibration,
    summarize,
    sweep_patients,
    threshold_curves,
)
from sa2va_ray.metrics import METRICS, THRESHOLDS, WIDTH_EDGES_PX, calibration_counts, probability_counts, quantise


def row(patient: str, sample: str, value: float, **values) -> dict:
    common = {
        "patient_id": patient,
        "sample_id": sample,
        "phrase": "vessels",
        "failure": "",
        "text": "",
        "has_mask": True,
        "is_negative": False,
        "is_false_alarm": False,
        "is_empty": False,
        "spacing_mm": np.full(2, np.nan),
        "people": np.full((2, len(METRICS)), np.nan),
    }
    return common | dict.fromkeys(METRICS, value) | values


def test_patients_count_once_each():
    rows = [
        row("a", "1", 1.0),
        row("a", "2", 0.5),
        row("a", "3", 0.0, has_mask=False, failure="no_seg"),
        row("b", "4", 0.1),
    ]
    summary = summarize(rows)
    assert summary["per_image"]["dice"] == pytest.approx(0.4)
    assert summary["per_patient"]["dice"] == pytest.approx(0.3)
    assert (summary["num_images"], summary["num_patients"], summary["num_without_mask"]) == (4, 2, 1)
    assert summary["interval_95"]["dice"] == pytest.approx((0.1, 0.5))
    assert summary["patients"]["a"]["num_images"] == 3
    assert summary["patients"]["a"]["dice"] == pytest.approx(0.5)
    assert [failure["sample_id"] for failure in summary["failures"]] == ["3"]


def test_several_phrases_are_summed_up_by_themselves():
    rows = [
        row("a", "1", 1.0, phrase="artery"),
        row("a", "1", 0.2, phrase="vein"),
        row("a", "2", 0.5, phrase="artery"),
        row("b", "3", 0.0, phrase="vein", has_mask=False, failure="no_seg"),
    ]
    artery, vein = by_phrase(rows)
    assert (artery["phrase"], vein["phrase"]) == ("artery", "vein")
    assert (artery["num_images"], artery["num_patients"], artery["num_without_mask"]) == (2, 1, 0)
    assert (vein["num_images"], vein["num_patients"], vein["num_without_mask"]) == (2, 2, 1)
    assert artery["per_patient"]["dice"] == pytest.approx(0.75)
    assert artery["interval_95"]["dice"] is None
    assert vein["per_patient"]["dice"] == pytest.approx(0.1)
    assert vein["interval_95"]["dice"] == pytest.approx((0.0, 0.2))
    assert by_phrase(rows[:1]) == []


def test_false_alarms_are_counted_where_there_is_nothing_to_find():
    assert summarize([row("a", "1", 1.0)])["false_alarms"] is None
    rows = [
        row("a", "1", 1.0),
        row("a", "2", 1.0, has_mask=False, is_negative=True),
        row("b", "3", 0.0, is_negative=True, is_false_alarm=True),
    ]
    summary = summarize(rows)
    alarms = summary["false_alarms"]
    assert (alarms["num_false_alarms"], alarms["num_negatives"], alarms["share"]) == (1, 2, 0.5)
    assert alarms["share_interval_95"] == pytest.approx((0.0, 1.0))
    assert summary["num_without_mask"] == 0


def test_an_image_is_the_mean_of_its_objects():
    summary = summarize([row("a", "1", 1.0), row("a", "1", 0.0), row("a", "2", 0.8)])
    assert (summary["num_images"], summary["num_objects"]) == (2, 3)
    assert summary["per_image"]["dice"] == pytest.approx(0.65)
    assert summary["interval_95"]["dice"] is None  # of one patient


def test_differences_are_paired():
    """Patients differ much from one another, and the models by 0.1 on each: only pairing shows it."""
    ours = [row(str(patient), str(patient), patient / 10 + 0.1) for patient in range(9)]
    theirs = [row(str(patient), str(patient), patient / 10) for patient in range(9)]
    difference = differences(ours, theirs)["dice"]
    assert difference["mean"] == pytest.approx(0.1)
    assert difference["interval_95"] == pytest.approx((0.1, 0.1))
    low, high = summarize(ours)["interval_95"]["dice"]
    assert high - low > 0.3


def probability_row(patient: str, sample: str, probabilities: np.ndarray, truth: np.ndarray) -> dict:
    return {
        "patient_id": patient,
        "sample_id": sample,
        "counts": probability_counts(quantise(probabilities), truth),
        "reliability": calibration_counts(probabilities, truth),
    }


def test_curves_are_means_over_patients_and_pixels_are_pooled():
    truth = np.array([[True, False]])
    good, bad = np.array([[0.9, 0.1]], np.float32), np.array([[0.1, 0.9]], np.float32)
    rows = [
        probability_row("a", "1", good, truth),
        probability_row("a", "2", bad, truth),
        probability_row("b", "3", good, truth),
    ]
    curves = threshold_curves(sweep_patients(rows))
    middle = THRESHOLDS.tolist().index(0.5)
    assert curves["thresholds"] == THRESHOLDS.tolist()
    assert curves["dice"][middle] == pytest.approx((0.5 + 1.0) / 2)
    assert curves["dice_interval_95"][middle] == pytest.approx((0.5, 1.0))
    pooled = precision_recall(rows)
    assert (pooled["precision"][middle], pooled["recall"][middle]) == pytest.approx((2 / 3, 2 / 3), abs=1e-6)
    # Up to a recall of 2 / 3 with a precision of 2 / 3, then with that of all pixels.
    assert pooled["average_precision"] == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 1 / 2, abs=1e-5)
    calibration = probability_calibration(rows)
    assert calibration["ece"] == pytest.approx((3 * abs(0.9 - 2 / 3) + 3 * abs(0.1 - 1 / 3)) / 6)
    assert [each["num_pixels"] for each in calibration["bins"]] == [3, 3]


def test_one_patient_has_no_band():
    truth = np.array([[True, False]])
    rows = [probability_row("a", "1", truth.astype(np.float32), truth)]
    assert threshold_curves(sweep_patients(rows))["dice_interval_95"] is None


def test_widths_that_there_are():
    def widths_row(patient: str, hits: int, missed: int, wrong: int) -> dict:
        widths = np.zeros((3, len(WIDTH_EDGES_PX)), np.int64)
        widths[:, 2] = hits, missed, wrong
        return {"patient_id": patient, "widths": widths}

    (only,) = by_width([widths_row("a", 10, 10, 0), widths_row("b", 60, 20, 20)])
    assert (only["from_px"], only["to_px"], only["num_pixels"]) == (2.5, 3.5, 100)
    assert only["recall"] == pytest.approx(0.7)
    assert only["dice"] == pytest.approx(140 / 190)
    assert only["recall_interval_95"] == pytest.approx((0.5, 0.75))
