"""The columns that a prediction has in a table. Imports no model: the tasks that read and write start in a second."""

import numpy as np
import pyarrow as pa

from sa2va_ray.predict.cleanup import CleanupConfig

PROBABILITY_STEPS = 65_535

RLE_TYPE = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
CLEANUP_TYPE = pa.struct([(name, pa.int64()) for name in CleanupConfig.model_fields])

PREDICTION_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("model_sha256", pa.string()),
        ("threshold", pa.float64()),
        ("cleanup", CLEANUP_TYPE),
        ("tta", pa.string()),
        ("error", pa.string()),  # "code: reason" of an image that cannot be used; null for all others
        ("height", pa.int64()),  # this and all that follow: null where there is an error
        ("width", pa.int64()),
        ("text", pa.string()),
        ("score", pa.float64()),
        ("entropy", pa.float64()),  # see `uncertainty.py`; null where the model sees nothing
        ("disagreement", pa.float64()),  # the same; null without test-time augmentation, and without a mask
        ("masks", pa.list_(RLE_TYPE)),  # COCO RLE, one for each [SEG] in the text
        ("probability", pa.large_binary()),  # see `probability_map`
    ]
)


def probability_map(probability: bytes, height: int, width: int) -> np.ndarray:
    """The column `probability` -> (H, W) uint16: the greatest probability of all masks x 65535, rounded; 0 where the
    answer had no mask."""
    return np.frombuffer(probability, "<u2").reshape(height, width)
