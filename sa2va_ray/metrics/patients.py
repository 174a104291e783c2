"""From rows of objects to means over patients, and how sure these are.

An image is the mean of its objects, a patient the mean of their images, the overall figure the mean of the patients; so
a patient of whom there are many images weighs no more than another. Intervals are over patients.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sa2va_ray.metrics.bootstrap import Interval, bootstrap_interval

Row = Mapping[str, Any]
"""What was measured of one object, with its `patient_id` and `sample_id`."""


def image_means(rows: Sequence[Row], value: Callable[[Row], np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """(patient_id, sample_id) -> the mean of `value` over the image's objects."""
    groups: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for row in rows:
        groups[row["patient_id"], row["sample_id"]].append(value(row))
    return {image: np.mean(values, axis=0) for image, values in groups.items()}


def patient_means(rows: Sequence[Row], value: Callable[[Row], np.ndarray]) -> dict[str, np.ndarray]:
    """patient_id -> the mean of `value` over the patient's images, sorted by pseudonym."""
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for (patient, _), values in image_means(rows, value).items():
        groups[patient].append(values)
    return {patient: np.mean(groups[patient], axis=0) for patient in sorted(groups)}


def per_image(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """Each metric's mean over images."""
    means = image_means(rows, partial(_values, names=names))
    return _named(names, np.mean(list(means.values()), axis=0))


def per_patient(rows: Sequence[Row], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """By pseudonym, sorted: `num_images`, and each metric's mean over the patient's images."""
    num_images: dict[str, int] = defaultdict(int)
    for patient, _ in {(row["patient_id"], row["sample_id"]) for row in rows}:
        num_images[patient] += 1
    return {
        patient: {"num_images": num_images[patient], **_named(names, values)}
        for patient, values in patient_means(rows, partial(_values, names=names)).items()
    }


def over_patients(patients: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Each metric's mean over patients, from `per_patient`."""
    return {name: float(np.mean([values[name] for values in patients.values()])) for name in names}


def intervals(patients: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, Interval]:
    """The 95 % interval of each metric's mean over patients; None for a single patient."""
    return {name: bootstrap_interval([values[name] for values in patients.values()]) for name in names}


def paired_differences(
    ours: Mapping[str, Mapping[str, float]], theirs: Mapping[str, Mapping[str, float]], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Of each metric, the mean over patients of our value less theirs, and its 95 % interval.

    Args:
        ours, theirs: from `per_patient`, of the same patients.
    """
    assert ours.keys() == theirs.keys()
    patients = {
        patient: {name: values[name] - theirs[patient][name] for name in names} for patient, values in ours.items()
    }
    means, bounds = over_patients(patients, names), intervals(patients, names)
    return {name: {"mean": means[name], "interval_95": bounds[name]} for name in names}


@dataclass(frozen=True)
class PatientCurves:
    """Curves of each patient: by metric (patients, points), in the order of `patients`, which are sorted."""

    patients: Sequence[str]
    values: Mapping[str, np.ndarray]

    @classmethod
    def from_rows(
        cls, rows: Sequence[Row], curves: Callable[[Row], Mapping[str, np.ndarray]], names: Sequence[str]
    ) -> "PatientCurves":
        """Averages the curves of objects over images and patients.

        Args:
            curves: gives those of an object, by metric; each has (points,) values.
        """

        def stacked(row: Row) -> np.ndarray:
            of_object = curves(row)
            return np.stack([of_object[name] for name in names])

        means = patient_means(rows, stacked)
        values = np.stack(list(means.values()), axis=1)
        return cls(list(means), dict(zip(names, values, strict=True)))

    def mean(self, name: str) -> np.ndarray:
        """(points,): the curve's mean over patients."""
        return self.values[name].mean(axis=0)

    def interval(self, name: str, point: int) -> Interval:
        """The 95 % interval of the mean at one point; None for a single patient."""
        return bootstrap_interval(self.values[name][:, point].tolist())


def _values(row: Row, names: Sequence[str]) -> np.ndarray:
    return np.array([row[name] for name in names], np.float64)


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
