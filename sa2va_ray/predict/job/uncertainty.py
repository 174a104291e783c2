"""How unsure a model is of its answer about one image, which it tells before anybody has drawn the truth."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from sa2va_ray.metrics import overlap_metrics

_SEEN = 0.05
"""Probability from which a pixel is one that the model has seen something in. The background, most of the image, is far
below it and would drown the rest; what lies above is the mask with its edges, and vessels that may be missing in it."""


def mean_entropy(probability: np.ndarray) -> float | None:
    """Mean binary entropy, in bits, over the pixels in which the model sees anything: 0 where it is sure of all of
    them, 1 where each may as well be vessel as not. None where it sees nothing in any pixel.

    Args:
        probability: (H, W) float in [0, 1].
    """
    seen = probability[probability >= _SEEN].astype(np.float64)
    if not len(seen):
        return None
    sure = np.clip(seen, 1e-12, 1 - 1e-12)
    return float(np.mean(-sure * np.log2(sure) - (1 - sure) * np.log2(1 - sure)))


def disagreement(views: Sequence[np.ndarray]) -> float:
    """1 less the mean Dice of each two views' masks: 0 where all of them draw the same, 1 where no two share a pixel.

    Args:
        views: two or more (H, W) bool of one image.
    """
    return 1 - float(np.mean([overlap_metrics(one, other)["dice"] for one, other in combinations(views, 2)]))
