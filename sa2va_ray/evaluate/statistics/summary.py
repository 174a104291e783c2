"""From rows of objects to what is told of a model: by patient, over patients, by threshold, by vessel width."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from sa2va_ray.evaluate.statistics.millimetres import in_millimetres
from sa2va_ray.evaluate.statistics.people import human_ceiling
from sa2va_ray.evaluate.statistics.silence import silence
from sa2va_ray.metrics import (
    METRICS,
    SWEPT_METRICS,
    THRESHOLDS,
    WIDTH_EDGES_PX,
    calibration_errors,
    pooled_interval,
    sweep,
)
from sa2va_ray.metrics.patients import (
    PatientCurves,
    Row,
    intervals,
    over_patients,
    paired_differences,
    per_image,
    per_patient,
)

_DIGITS = 6  # of curves, which are many numbers


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Counts, means over images (`per_image`) and over patients (`per_patient`), the latter's 95 % intervals
    (`interval_95`; null for one patient), each patient's own means (`patients`), the failures, the `silence` (of what
    the model does not see; else empty), the `false_alarms`
    (null where every object is on its image), the `human_ceiling` (null where no image has several annotators), and
    what can be told in `millimetres` (null where an image does not tell its pixel spacing)."""
    patients = per_patient(rows, METRICS)
    without_mask = [row for row in rows if row["failure"]]
    return {
        "num_images": len({(row["patient_id"], row["sample_id"]) for row in rows}),
        "num_objects": len(rows),
        "num_patients": len(patients),
        "num_without_mask": len(without_mask),
        "silence": silence(rows),
        "failures": [{name: row[name] for name in ("sample_id", "phrase", "failure", "text")} for row in without_mask],
        "false_alarms": _false_alarms(rows),
        "per_image": per_image(rows, METRICS),
        "per_patient": over_patients(patients, METRICS),
        "interval_95": intervals(patients, METRICS),
        "patients": patients,
        "human_ceiling": human_ceiling(rows),
        "millimetres": in_millimetres(rows),
    }


def by_phrase(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Where several phrases are asked for, of each its counts, means over patients and their intervals, as `summarize`
    gives them, in the order of first appearance; else nothing."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["phrase"]].append(row)
    if len(groups) < 2:
        return []
    kept = ("num_images", "num_patients", "num_without_mask", "false_alarms", "per_patient", "interval_95")
    summaries = {phrase: summarize(own) for phrase, own in groups.items()}
    return [{"phrase": phrase, **{name: of[name] for name in kept}} for phrase, of in summaries.items()]


def _false_alarms(rows: Sequence[Row]) -> dict[str, Any] | None:
    """How many questions about what is not on the image were answered with a mask, and their share with its interval
    over patients."""
    by_patient: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if row["is_negative"]:
            by_patient[row["patient_id"]].append(row["is_false_alarm"])
    if not by_patient:
        return None
    alarms = np.array([sum(each) for each in by_patient.values()])
    questions = np.array([len(each) for each in by_patient.values()])
    return {
        "num_false_alarms": int(alarms.sum()),
        "num_negatives": int(questions.sum()),
        **_quotient("share", alarms, questions),
    }


def differences(rows: Sequence[Row], against: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Paired: of each patient, the mean of `rows` less that of `against`; over patients its mean and 95 % interval.

    Both have the same images.
    """
    return paired_differences(per_patient(rows, METRICS), per_patient(against, METRICS), METRICS)


def sweep_patients(rows: Sequence[Row], beta: float = 1.0) -> PatientCurves:
    """`SWEPT_METRICS` of each patient at each of `THRESHOLDS`.

    Args:
        rows: each with `counts` of `probability_counts`.
        beta: how many times as much recall counts as precision in `fbeta`.
    """
    return PatientCurves.from_rows(rows, lambda row: sweep(np.asarray(row["counts"]), beta), SWEPT_METRICS)


def threshold_curves(curves: PatientCurves) -> dict[str, Any]:
    """Mean Dice, precision and recall over patients at each of `thresholds`, the former with its interval. Masks are
    thresholded only, not cleaned.

    Args:
        curves: what `sweep_patients` gives.
    """
    band = [curves.interval("dice", point) for point in range(len(THRESHOLDS))]
    return {
        "thresholds": THRESHOLDS.tolist(),
        **{name: _rounded(curves.mean(name)) for name in ("dice", "precision", "recall")},
        "dice_interval_95": band if None not in band else None,
    }


def precision_recall(rows: Sequence[Row]) -> dict[str, Any]:
    """Over all pixels of all images together, at each of `THRESHOLDS`, and the area under it, `average_precision`."""
    curve = sweep(np.sum([row["counts"] for row in rows], axis=0))
    recall = np.concatenate([curve["recall"], [0.0]])
    return {
        "precision": _rounded(curve["precision"]),
        "recall": _rounded(curve["recall"]),
        "average_precision": float(np.sum((recall[:-1] - recall[1:]) * curve["precision"])),
    }


def probability_calibration(rows: Sequence[Row]) -> dict[str, Any]:
    """`ece`, `brier` over all pixels of all images together, and by bin of probability what they are made from."""
    counts = np.sum([row["reliability"] for row in rows], axis=0)
    sizes, probabilities, labels, _ = counts
    return {
        **calibration_errors(counts),
        "bins": [
            {"num_pixels": int(size), "mean_probability": probability / size, "share_of_vessel": label / size}
            for size, probability, label in zip(sizes.tolist(), probabilities.tolist(), labels.tolist(), strict=True)
            if size
        ],
    }


def by_width(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Recall and Dice over all pixels next to true vessels of a width, with intervals; for widths that there are."""
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((3, len(WIDTH_EDGES_PX)), np.int64))
    for row in rows:
        sums[row["patient_id"]] += np.asarray(row["widths"])
    hits, missed, wrong = np.stack([sums[patient] for patient in sorted(sums)], axis=2)  # (widths, patients)
    return [
        {
            "from_px": low,
            "to_px": high,
            "num_pixels": int((hit + miss).sum()),
            **_quotient("recall", hit, hit + miss),
            **_quotient("dice", 2 * hit, 2 * hit + miss + extra),
        }
        for low, high, hit, miss, extra in zip(
            WIDTH_EDGES_PX, (*WIDTH_EDGES_PX[1:], None), hits, missed, wrong, strict=True
        )
        if (hit + miss).any()
    ]


def _quotient(name: str, parts: np.ndarray, wholes: np.ndarray) -> dict[str, Any]:
    interval = pooled_interval(parts.tolist(), wholes.tolist())
    return {name: float(parts.sum() / wholes.sum()), f"{name}_interval_95": interval}


def _rounded(values: np.ndarray) -> list[float]:
    return values.round(_DIGITS).tolist()
