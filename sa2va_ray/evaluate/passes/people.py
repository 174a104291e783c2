"""How well people agree, and the model with the same people: the ceiling of what can be measured."""

import numpy as np

from sa2va_ray.images.consensus import Consensus, consensus
from sa2va_ray.metrics import METRICS, compute_metrics


def measure_people(
    prediction: np.ndarray, by_annotator: np.ndarray, counts: np.ndarray, method: Consensus, tolerance_px: float
) -> np.ndarray:
    """(2, `METRICS`) float64: each annotator, and the prediction, against the consensus of the others, as means over
    the annotators. A single other one is the consensus. NaN where there are no two annotators.

    Args:
        prediction: (H, W) bool.
        by_annotator: (R, H, W) bool.
        counts: (H, W) bool of the pixels that count; the masks have no others.
    """
    values = []
    for place, own in enumerate(by_annotator):
        others = np.delete(by_annotator, place, axis=0)
        if len(others):
            truth = consensus(others, method, counts)
            measured = (compute_metrics(mask, truth, METRICS, tolerance_px) for mask in (own, prediction))
            values.append([[each[name] for name in METRICS] for each in measured])
    return np.mean(values, axis=0) if values else np.full((2, len(METRICS)), np.nan)
