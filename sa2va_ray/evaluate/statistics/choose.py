"""Which threshold is best, from the curves of the patients."""

from collections.abc import Sequence

import numpy as np

from sa2va_ray.config import UserError
from sa2va_ray.evaluate.config import CalibrateConfig
from sa2va_ray.metrics import THRESHOLDS
from sa2va_ray.metrics.patients import PatientCurves, Row
from sa2va_ray.telemetry import LOGGER

_FEW_PATIENTS = 5


def rows_of_objective(rows: Sequence[Row], config: CalibrateConfig) -> list[Row]:
    """The rows that the objective is about: a recall is asked for of what is there, and false alarms, which count as a
    recall of 0 elsewhere, would raise the threshold and lower the recall."""
    return [row for row in rows if config.objective != "recall" or not row["is_negative"]]


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


def warn_of_choice(threshold: float, num_patients: int) -> None:
    """Says why a threshold may be none to rely on."""
    if num_patients < _FEW_PATIENTS:
        LOGGER.warning("%d patient(s): the threshold may be another with others", num_patients)
    if threshold in (THRESHOLDS[0], THRESHOLDS[-1]):
        LOGGER.warning(
            "WARNING: the threshold %.4f is an end of its range, where nearly all pixels come out alike: the model "
            "hardly tells vessels from background. Train it for longer before you serve it; calibration.html draws the "
            "curve.",
            threshold,
        )


def _highest_with_recall(recall: np.ndarray, config: CalibrateConfig) -> int:
    assert config.recall_target is not None  # the config has checked it
    enough = np.flatnonzero(recall >= config.recall_target)  # recall never rises with the threshold
    if not len(enough):
        raise UserError(
            f"No threshold reaches a mean recall of {config.recall_target:g}: the lowest, {THRESHOLDS[0]:.4f}, gives "
            f"{recall[0]:.4f}. Lower recall_target, or train for recall first."
        )
    return int(enough[-1])
