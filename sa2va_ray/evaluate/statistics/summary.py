"""From rows of objects to what is told of a model: by patient, over patients, by threshold, by vessel width.

An image is the mean of its objects, a patient the mean of their images, the overall figure the mean of the patients; so
a patient of whom there are many images weighs no more than another. Intervals are over patients.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from sa2va_ray.metrics import (
    THRESHOLDS,
    WIDTH_EDGES_PX,
    bootstrap_interval,
    calibration_errors,
    pooled_interval,
    sweep,
)

METRICS = (
    "dice",
    "iou",
    "precision",
    "recall",
    "cldice",
    "surface_dice",
    "hd95",
    "betti0_error",
    "betti1_error",
)
BOOTSTRAP_SEED = 0
_Row = Mapping[str, Any]
_DIGITS = 6  # of curves, which are many numbers
Interval = tuple[float, float] | None


def summarize(rows: Sequence[_Row]) -> dict[str, Any]:
    """Counts, means over images (`per_image`) and over patients (`per_patient`), the latter's 95 % intervals
    (`interval_95`; null for one patient), each patient's own means (`patients`), and the failures."""
    images, patients = image_means(rows, _metrics), patient_means(rows, _metrics)
    return {
        "num_images": len(images),
        "num_objects": len(rows),
        "num_patients": len(patients),
        "num_without_mask": sum(not row["has_mask"] for row in rows),
        "failures": [
            {name: row[name] for name in ("sample_id", "phrase", "failure", "text")}
            for row in rows
            if not row["has_mask"]
        ],
        "per_image": _named(np.mean(list(images.values()), axis=0)),
        "per_patient": _named(np.mean(list(patients.values()), axis=0)),
        "interval_95": intervals(list(patients.values())),
        "patients": {
            patient: {"num_images": sum(owner == patient for owner, _ in images), **_named(values)}
            for patient, values in patients.items()
        },
    }


def image_means(rows: Sequence[_Row], value: Callable[[_Row], np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """(patient_id, sample_id) -> the mean of `value` over the image's objects."""
    groups: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for row in rows:
        groups[row["patient_id"], row["sample_id"]].append(value(row))
    return {image: np.mean(values, axis=0) for image, values in groups.items()}


def patient_means(rows: Sequence[_Row], value: Callable[[_Row], np.ndarray]) -> dict[str, np.ndarray]:
    """patient_id -> the mean of `value` over the patient's images, sorted by pseudonym."""
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for (patient, _), values in image_means(rows, value).items():
        groups[patient].append(values)
    return {patient: np.mean(groups[patient], axis=0) for patient in sorted(groups)}


def intervals(values_per_patient: Sequence[np.ndarray]) -> dict[str, Interval]:
    """The 95 % interval of each of `METRICS`' mean."""
    columns = np.stack(values_per_patient, axis=1)
    return {
        name: bootstrap_interval(list(values), BOOTSTRAP_SEED) for name, values in zip(METRICS, columns, strict=True)
    }


def differences(rows: Sequence[_Row], against: Sequence[_Row]) -> dict[str, dict[str, Any]]:
    """Paired: of each patient, the mean of `rows` less that of `against`; over patients its mean and 95 % interval.

    Both have the same images.
    """
    ours, theirs = patient_means(rows, _metrics), patient_means(against, _metrics)
    assert ours.keys() == theirs.keys()
    values = [ours[patient] - theirs[patient] for patient in ours]
    means = _named(np.mean(values, axis=0))
    return {name: {"mean": means[name], "interval_95": interval} for name, interval in intervals(values).items()}


def threshold_curves(rows: Sequence[_Row]) -> dict[str, Any]:
    """Mean Dice, precision and recall over patients at each of `thresholds`, the former with its interval. Masks are
    thresholded only, not cleaned."""
    curves = {
        name: np.stack(list(patient_means(rows, partial(_swept, name=name)).values()), axis=1)
        for name in ("dice", "precision", "recall")
    }
    band = [bootstrap_interval(list(values), BOOTSTRAP_SEED) for values in curves["dice"]]
    return {
        "thresholds": THRESHOLDS.tolist(),
        **{name: _rounded(values.mean(axis=1)) for name, values in curves.items()},
        "dice_interval_95": band if None not in band else None,
    }


def precision_recall(rows: Sequence[_Row]) -> dict[str, Any]:
    """Over all pixels of all images together, at each of `THRESHOLDS`, and the area under it, `average_precision`."""
    curve = sweep(np.sum([row["counts"] for row in rows], axis=0))
    recall = np.concatenate([curve["recall"], [0.0]])
    return {
        "precision": _rounded(curve["precision"]),
        "recall": _rounded(curve["recall"]),
        "average_precision": float(np.sum((recall[:-1] - recall[1:]) * curve["precision"])),
    }


def probability_calibration(rows: Sequence[_Row]) -> dict[str, Any]:
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


def by_width(rows: Sequence[_Row]) -> list[dict[str, Any]]:
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
    interval = pooled_interval(parts.tolist(), wholes.tolist(), BOOTSTRAP_SEED)
    return {name: float(parts.sum() / wholes.sum()), f"{name}_interval_95": interval}


def _swept(row: _Row, name: str) -> np.ndarray:
    return sweep(np.asarray(row["counts"]))[name]


def _metrics(row: _Row) -> np.ndarray:
    return np.array([row[name] for name in METRICS], np.float64)


def _named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(METRICS, values.tolist(), strict=True))


def _rounded(values: np.ndarray) -> list[float]:
    return values.round(_DIGITS).tolist()
