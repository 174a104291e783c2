"""Whether a probability is one: of the pixels that are vessel with 70 %, are seven in ten vessel?"""

import numpy as np

_NUM_BINS = 15


def calibration_counts(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(4, 15): in each of 15 equal bins of probability, the number of pixels, the sum of their probabilities, the
    number of vessel pixels among them, and the sum of the squared errors. Counts of several images can be added.

    Args:
        probabilities: float in [0, 1], an image's (H, W) or the pixels of it that count.
        truth: bool, of the same shape.
    """
    values, labels = probabilities.ravel().astype(np.float64), truth.ravel().astype(np.float64)
    bins = np.minimum((values * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    weights = (np.ones_like(values), values, labels, (values - labels) ** 2)
    return np.stack([np.bincount(bins, weight, minlength=_NUM_BINS) for weight in weights])


def calibration_errors(counts: np.ndarray) -> dict[str, float]:
    """`ece`, the expected calibration error (Guo et al., arXiv 1706.04599, of the probability of vessel): how far mean
    probability and share of vessel are apart in a bin, as a mean over pixels; and `brier`, the mean squared error.

    Most pixels are certain background, which keeps both low: they compare models on the same images, no more.

    Args:
        counts: (4, 15) of `calibration_counts`, or a sum of these; of one pixel at least.
    """
    sizes, probabilities, labels, squares = counts
    return {
        "ece": float(np.abs(probabilities - labels).sum() / sizes.sum()),
        "brier": float(squares.sum() / sizes.sum()),
    }
