"""Overlap metrics of binary masks: numpy functions on (H, W) bool arrays, values in [0, 1].

Two empty masks agree perfectly (1.0); one empty mask against a non-empty one scores 0.0. Precision of an empty
prediction is 1.0 where the truth is empty and 0.0 otherwise, recall likewise with the roles changed.
"""

import numpy as np


def overlap_metrics(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Dice, IoU, precision and recall of one image.

    Args:
        prediction, truth: (H, W) bool.

    Raises:
        ValueError: masks of different shapes; resize the prediction to the image's own size first.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in size")
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
