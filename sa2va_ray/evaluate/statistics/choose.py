"""Which threshold is best, from the curves of the patients."""

import numpy as np

from sa2va_ray.config import UserError
from sa2va_ray.evaluate.config import CalibrateConfig
from sa2va_ray.metrics import THRESHOLDS
from sa2va_ray.metrics.patients import PatientCurves
from sa2va_ray.telemetry import LOGGER

_FEW_PATIENTS = 5


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
    enough = np.flatnonzero(recall >= config.recall_target)
    if not len(enough):
        best = int(recall.argmax())  # not always the lowest: a false alarm counts as a recall of 0
        raise UserError(
            f"No threshold reaches a mean recall of {config.recall_target:g}: the best, {THRESHOLDS[best]:.4f}, gives "
            f"{recall[best]:.4f}. Lower recall_target, or train for recall first."
        )
    return int(enough[-1])
