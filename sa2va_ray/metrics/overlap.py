"""How much of two masks is the same: values in [0, 1].

Two empty masks agree perfectly (1.0); one empty mask against a non-empty one scores 0.0. Precision of an empty
prediction is 1.0 where the truth is empty and 0.0 otherwise, recall likewise with the roles changed.
"""

import numpy as np
from skimage.morphology import skeletonize


def overlap_metrics(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Dice, IoU, precision and recall of one image.

    Args:
        prediction, truth: (H, W) bool.

    Raises:
        ValueError: masks of different shapes; resize the prediction to the image's own size first.
    """
    check_shapes(prediction, truth)
    hits = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    if predicted == 0 and true == 0:
        return {"dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0}
    return {
        "dice": 2 * hits / (predicted + true),
        "iou": hits / (predicted + true - hits),
        "precision": hits / predicted if predicted else 0.0,
        "recall": hits / true if true else 0.0,
    }


def cldice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Centerline Dice (arXiv 2003.07311): the harmonic mean of the share of the prediction's skeleton that lies in the
    truth (topology precision) and the share of the truth's skeleton that lies in the prediction (topology sensitivity).

    A vessel counts by its length, however wide it is. Empty masks are rated as in the other metrics.

    Args:
        prediction, truth: (H, W) bool.

    Raises:
        ValueError: as `overlap_metrics`.
    """
    check_shapes(prediction, truth)
    if not prediction.any() or not truth.any():
        return float(prediction.any() == truth.any())
    precision = truth[skeletonize(prediction)].mean()
    sensitivity = prediction[skeletonize(truth)].mean()
    return float(2 * precision * sensitivity / (precision + sensitivity)) if precision + sensitivity else 0.0


def check_shapes(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Refuses masks that cannot be compared pixel by pixel.

    Raises:
        ValueError: the masks differ in shape.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in size")
