"""Every threshold at once: an image's probabilities are counted in 256 bins, and from the counts come its masks'
metrics at each of 255 thresholds.

The mask rule is `probability > threshold`. Bin k holds the probabilities in (k / 256, (k + 1) / 256], and bin 0 also 0,
so that at a threshold of k / 256 the counts are those of the mask itself, not an approximation.
"""

import numpy as np

from sa2va_ray.metrics.overlap import check_shapes

_NUM_BINS = 256
NUM_LEVELS = 2**16
THRESHOLDS = np.arange(1, _NUM_BINS) / _NUM_BINS
"""(255,): those that can be told from counts."""


SWEPT_METRICS = ("dice", "fbeta", "precision", "recall")
"""What `sweep` gives."""


def quantise(probabilities: np.ndarray) -> np.ndarray:
    """(...) float32 in [0, 1] -> uint16 levels: for k > 0, `levels >= k` is `probabilities > k / 65536`."""
    # The product is exact: the number of levels is a power of two.
    return np.maximum(np.ceil(probabilities * NUM_LEVELS) - 1, 0).astype(np.uint16)


def dequantise(levels: np.ndarray) -> np.ndarray:
    """uint16 levels -> float32 probabilities, each the middle of its level."""
    return (levels.astype(np.float32) + 0.5) / NUM_LEVELS


def probability_counts(levels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(2, 256) int64: how many pixels of background, and of vessel, are in each bin.

    Args:
        levels: uint16 of `quantise`, an image's (H, W) or the pixels of it that count; of 2 bytes, the upper one is the
            bin.
        truth: bool, of the same shape.

    Raises:
        ValueError: arrays of different shapes.
    """
    check_shapes(levels, truth)
    bins = levels // (NUM_LEVELS // _NUM_BINS)
    return np.stack([np.bincount(bins[where], minlength=_NUM_BINS) for where in (~truth, truth)])


def sweep(counts: np.ndarray, beta: float = 1.0) -> dict[str, np.ndarray]:
    """Metrics at each of `THRESHOLDS`, along the last axis.

    Empty masks are rated as in `overlap_metrics`.

    Args:
        counts: (..., 2, 256) of `probability_counts`.
        beta: of `fbeta`, how many times as much recall counts as precision; with 1, `fbeta` is Dice.

    Returns:
        `dice`, `fbeta`, `precision`, `recall`: (..., 255) in [0, 1].
    """
    above = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1][..., 1:]  # pixels in bin k and higher, k > 0
    wrong, hits = above[..., 0, :], above[..., 1, :]
    missed = counts[..., 1, :].sum(axis=-1, keepdims=True) - hits
    is_perfect = (wrong == 0) & (missed == 0)

    def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        # Where one mask is empty there are no hits, and the quotient of the other is 0 / 0 or 0.
        return np.where(is_perfect, 1.0, part / np.maximum(whole, 1))

    weight = beta**2
    return {
        "dice": quotient(2 * hits, 2 * hits + wrong + missed),
        "fbeta": quotient((1 + weight) * hits, (1 + weight) * hits + wrong + weight * missed),
        "precision": quotient(hits, hits + wrong),
        "recall": quotient(hits, hits + missed),
    }
