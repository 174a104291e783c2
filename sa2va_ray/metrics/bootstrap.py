"""How sure a mean over patients is: percentile bootstrap over patients."""

from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float] | None
"""Low and high end; None where it cannot be told."""

_SEED = 0  # of all reports, so that they can be made again
_NUM_RESAMPLES = 2000
_CONFIDENCE = 0.95
_QUANTILES = ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2)


def bootstrap_interval(values_per_patient: Sequence[float], seed: int = _SEED) -> Interval:
    """95 % percentile bootstrap interval (low, high) of the mean over patients.

    Patients are drawn, not images: images of one patient are alike, and more of them do not make the mean any surer.
    None for fewer than two patients, since one tells nothing of how patients differ. Two give the two values
    themselves; up to about ten, the interval is somewhat too narrow.

    Args:
        values_per_patient: one value for each patient.
        seed: the same values and seed give the same interval.
    """
    values = np.asarray(values_per_patient, np.float64)
    if len(values) < 2:
        return None
    low, high = np.quantile(values[_draws(len(values), seed)].mean(axis=1), _QUANTILES)
    return float(low), float(high)


def pooled_interval(numerators: Sequence[float], denominators: Sequence[float], seed: int = _SEED) -> Interval:
    """The same as `bootstrap_interval`, for a quotient of sums over patients, such as the share that is found.

    None for fewer than two patients with a denominator; the others have no part in the quotient.

    Args:
        numerators, denominators: one of each for each patient.
        seed: as `bootstrap_interval`.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    above, below = above[below > 0], below[below > 0]
    if len(below) < 2:
        return None
    draws = _draws(len(below), seed)
    low, high = np.quantile(above[draws].sum(axis=1) / below[draws].sum(axis=1), _QUANTILES)
    return float(low), float(high)


def _draws(num_patients: int, seed: int) -> np.ndarray:
    """(resamples, num_patients) indices of patients."""
    return np.random.default_rng(seed).integers(num_patients, size=(_NUM_RESAMPLES, num_patients))
