"""The predictor as a Ray Data actor pool: rows with an image go in, the same rows with a prediction come out.

What else is in a row passes through untouched and unseen, so that nothing but the image and the prompt can decide what
is predicted.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import ray
from PIL import Image

from sa2va_ray.cluster.config import PoolConfig
from sa2va_ray.cluster.resources import pool_arguments
from sa2va_ray.images.decode import ImageError, decode_image_bytes
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.models.sa2va.generation_sa2va import TooManyMasksError
from sa2va_ray.predict.job.columns import PREDICTION_SCHEMA, PROBABILITY_STEPS
from sa2va_ray.predict.job.config import PredictOptions
from sa2va_ray.predict.job.tta import Averaged, predict_each
from sa2va_ray.predict.job.uncertainty import mean_entropy
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query, most_masks


class PredictImages:
    """Actor. In: `image` (an encoded file, as `decode_image_bytes` takes it), `prompt`, and perhaps `error`: a row that
    has one already, and no image, keeps it. Out: the columns of `PREDICTION_SCHEMA` added or replaced."""

    def __init__(self, model_uri: str, options: PredictOptions):
        self._predictor = load_predictor(model_uri)
        self._options = options

    def __call__(self, rows: pa.Table) -> pa.Table:
        errors = rows["error"].to_pylist() if "error" in rows.column_names else [None] * len(rows)
        images = [
            _decode(image, error, self._options.max_pixels)
            for image, error in zip(rows["image"].to_pylist(), errors, strict=True)
        ]
        queries = [
            self._query(image, prompt)
            for image, prompt in zip(images, rows["prompt"].to_pylist(), strict=True)
            if isinstance(image, Image.Image)
        ]
        predictions = iter(predict_each(self._predictor, queries, self._options.tta))
        added = [
            self._common() | (_to_columns(next(predictions)) if isinstance(image, Image.Image) else {"error": image})
            for image in images
        ]
        kept = [name for name in rows.column_names if name not in PREDICTION_SCHEMA.names]
        table = rows.select(kept)
        for name, column in zip(
            PREDICTION_SCHEMA.names, pa.Table.from_pylist(added, schema=PREDICTION_SCHEMA).columns, strict=True
        ):
            table = table.append_column(PREDICTION_SCHEMA.field(name), column)
        return table

    def _query(self, image: Image.Image, prompt: str) -> Query:
        most = most_masks(image.height, image.width)
        return Query(image, prompt, threshold=self._options.threshold, cleanup=self._options.cleanup, max_masks=most)

    def _common(self) -> dict[str, Any]:
        predictor = self._predictor
        return {
            "model": predictor.name,
            "model_sha256": predictor.sha256,
            **self._options.columns(predictor.threshold, predictor.cleanup),
        }


def map_predictions(
    rows: ray.data.Dataset, model_uri: str, options: PredictOptions, pool: PoolConfig
) -> ray.data.Dataset:
    """Adds the columns of `PREDICTION_SCHEMA` to rows with `image` and `prompt`; see `PredictImages`.

    Ray restarts an actor that dies and gives it its rows again. The result is lazy: `stream_tables` runs it.

    Raises:
        UserError: the cluster has not, and cannot start, what the actors want.
    """
    actors = pool_arguments(pool)
    return rows.map_batches(PredictImages, fn_constructor_args=(model_uri, options), batch_format="pyarrow", **actors)


def _to_columns(averaged: Averaged | TooManyMasksError) -> dict[str, Any]:
    if isinstance(averaged, TooManyMasksError):
        return {"error": f"too_many_masks: {averaged}"}
    prediction = averaged.prediction
    greatest = prediction.probabilities.max(axis=0, initial=0.0)
    return {
        "height": greatest.shape[0],
        "width": greatest.shape[1],
        "text": prediction.text,
        "score": prediction.score,
        "entropy": mean_entropy(greatest),
        "disagreement": averaged.disagreement,
        "masks": [mask_to_rle(mask) for mask in prediction.masks],
        "probability": np.rint(greatest * PROBABILITY_STEPS).astype("<u2").tobytes(),
    }


def _decode(data: bytes | None, error: str | None, max_pixels: int) -> Image.Image | str:
    """The image, or why there is none."""
    if error is not None:
        return error
    assert data is not None
    try:
        return Image.fromarray(decode_image_bytes(data, max_pixels))
    except ImageError as unusable:
        return f"{unusable.code}: {unusable.reason}"
