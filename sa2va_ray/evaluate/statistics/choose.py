"""Which threshold is best, from the curves of the patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa2va_ray.config import UserError
from sa2va_ray.evaluate.config import CalibrateConfig
from sa2va_ray.evaluate.statistics.summary import patient_means
from sa2va_ray.metrics import THRESHOLDS, sweep

_CURVES = ("dice", "fbeta", "precision", "recall")


@dataclass(frozen=True)
class PatientCurves:
    """Metrics of each patient at each of `THRESHOLDS`: by name (patients, 255), in the order of `patients`."""

    patients: Sequence[str]
    values: Mapping[str, np.ndarray]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], beta: float) -> "PatientCurves":
        """
        Args:
            rows: `patient_id`, `sample_id`, and `counts` of `probability_counts`.
        """

        def swept(row: Mapping[str, Any]) -> np.ndarray:
            curves = sweep(np.asarray(row["counts"]), beta)
            return np.stack([curves[name] for name in _CURVES])

        of_patients = patient_means(rows, swept)
        stacked = np.stack(list(of_patients.values()), axis=1)
        return cls(list(of_patients), dict(zip(_CURVES, stacked, strict=True)))

    def mean(self, name: str) -> np.ndarray:
        """(255,)"""
        return self.values[name].mean(axis=0)


def choose_threshold(curves: PatientCurves, config: CalibrateConfig) -> int:
    """Place of the best threshold in `THRESHOLDS`; the middle one where several are equally good.

    Raises:
        UserError: no threshold reaches the recall that is asked for.
    """
    if config.objective == "recall":
        return _highest_with_recall(curves.mean("recall"), config)
    means = curves.mean(config.objective)
    best = np.flatnonzero(means == means.max())
    return int(best[len(best) // 2])


def _highest_with_recall(recall: np.ndarray, config: CalibrateConfig) -> int:
    assert config.recall_target is not None  # the config has checked it
    enough = np.flatnonzero(recall >= config.recall_target)  # recall never rises with the threshold
    if not len(enough):
        raise UserError(
            f"No threshold reaches a mean recall of {config.recall_target:g}: the lowest, {THRESHOLDS[0]:.4f}, gives "
            f"{recall[0]:.4f}. Lower recall_target, or train for recall first."
        )
    return int(enough[-1])
