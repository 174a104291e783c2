"""Test-time augmentation: the image is shown mirrored as well, and the probabilities are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from sa2va_ray.models.sa2va.generation_sa2va import TooManyMasksError
from sa2va_ray.predict.cleanup import to_masks
from sa2va_ray.predict.job.config import TTA
from sa2va_ray.predict.job.uncertainty import disagreement
from sa2va_ray.predict.load import Predictor
from sa2va_ray.predict.predictor import Prediction, Query, rgb_images

_FLIPS = ((False, True), (True, False), (True, True))  # (vertical, horizontal), beside the image as it is


@dataclass(frozen=True)
class Averaged:
    """Attributes:
    disagreement: of the views (see `uncertainty.py`); None where there is one only, or no mask.
    """

    prediction: Prediction
    disagreement: float | None


def predict_augmented(predictor: Predictor, queries: Sequence[Query], tta: TTA) -> list[Averaged]:
    """`predictor.predict`, with the mean of the probabilities of all variants; the masks are made from that mean.

    What is said, and with it the number of masks, is that of the image as it is: the mirrored variants are given this
    text as their answer, since one that says another number of [SEG] would leave masks without a counterpart. Prompts
    that name a side ("the left vessel") mean something else in a mirror; leave `tta` out for them.
    """
    images = rgb_images(queries)  # as they are to be seen: a mirror turns what EXIF says the other way
    queries = [replace(query, image=image) for query, image in zip(queries, images, strict=True)]
    plain = predictor.predict(queries)
    if tta == "none":
        return [Averaged(prediction, None) for prediction in plain]
    sums = [prediction.probabilities.astype(np.float64) for prediction in plain]
    views = [[_view(prediction.probabilities, prediction.threshold)] for prediction in plain]
    scores = [prediction.score for prediction in plain]
    for flip in _FLIPS:
        mirrored = [
            replace(query, image=_flipped_image(image, *flip), answer=prediction.text)
            for query, image, prediction in zip(queries, images, plain, strict=True)
        ]
        for index, variant in enumerate(predictor.predict(mirrored)):
            # An answer cut off by its length may end in a [SEG] that has no mask until it is given as an answer.
            probabilities = _flipped(variant.probabilities, *flip)[: len(sums[index])]
            sums[index] += probabilities
            views[index].append(_view(probabilities, variant.threshold))
            scores[index] += variant.score
    num_variants = 1 + len(_FLIPS)
    return [
        Averaged(
            _mean(prediction, total / num_variants, score / num_variants),
            disagreement(masks) if len(prediction.masks) else None,
        )
        for prediction, total, score, masks in zip(plain, sums, scores, views, strict=True)
    ]


def predict_each(predictor: Predictor, queries: Sequence[Query], tta: TTA) -> list[Averaged | TooManyMasksError]:
    """`predict_augmented`, in which an answer of too many masks costs the other queries nothing."""
    try:
        return [*predict_augmented(predictor, queries, tta)]
    except TooManyMasksError as error:
        if len(queries) == 1:
            return [error]
        return [each for query in queries for each in predict_each(predictor, [query], tta)]


def _mean(plain: Prediction, probabilities: np.ndarray, score: float) -> Prediction:
    masks = to_masks(probabilities, plain.threshold, plain.cleanup)
    return replace(plain, masks=masks, probabilities=probabilities.astype(np.float32), score=score)


def _view(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """(N, H, W) -> (H, W) bool: the union of one view's masks, before any clean-up."""
    return np.any(probabilities > threshold, axis=0)


def _flipped_image(image: Image.Image, vertical: bool, horizontal: bool) -> Image.Image:
    image = ImageOps.flip(image) if vertical else image
    return ImageOps.mirror(image) if horizontal else image


def _flipped(maps: np.ndarray, vertical: bool, horizontal: bool) -> np.ndarray:
    """(N, H, W)"""
    return maps[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
