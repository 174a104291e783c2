"""The model deployment: a shim of dynamic batches around the predictor."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from ray import serve

from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.predict.load import Predictor, load_predictor
from sa2va_ray.predict.predictor import Prediction, Query
from sa2va_ray.serve.config import BatchingConfig
from sa2va_ray.serve.metrics import ModelMetrics
from sa2va_ray.serve.weights import ModelSource, local_model
from sa2va_ray.telemetry import LOGGER, configure_logging

_WARM_UP_SIDES = (64, 512)  # px
_MEGAPIXEL = 10**6
_batch: Any = serve.batch  # its annotations know neither methods of several arguments nor the setters it adds


@dataclass(frozen=True)
class Question:
    """An image (H, W) or (H, W, 3) uint8 and what is asked of it; see `Query` for the rest."""

    image: np.ndarray
    prompts: tuple[str, ...]
    threshold: float | None = None
    cleanup: CleanupConfig | None = None

    @property
    def megapixels(self) -> int:
        height, width = self.image.shape[:2]
        return max(1, math.ceil(height * width * len(self.prompts) / _MEGAPIXEL))


@dataclass(frozen=True)
class Answers:
    """Attributes:
    predictions: one for each prompt.
    sha256, threshold, cleanup: of the model that answered, which may be another from one request to the next.
    error: the class of what went wrong on this image; then there are no predictions.
    """

    predictions: tuple[Prediction, ...]
    sha256: str
    threshold: float
    cleanup: CleanupConfig
    error: str = ""


def batch_megapixels(questions: Sequence[Question]) -> int:
    """By which a batch is measured."""
    return sum(question.megapixels for question in questions)


@serve.deployment
class SegmentationModel:
    """One replica: a model on one device."""

    def __init__(self, name: str, source: ModelSource, cache_dir: str, default_prompt: str):
        configure_logging()
        self._source = source
        self._predictor: Predictor = load_predictor(local_model(source, cache_dir))
        self._metrics = ModelMetrics(name)
        # The first passes are slow (kernels, threads); they should not be a user's.
        for side in _WARM_UP_SIDES:
            self._predictor.predict([Query(Image.new("RGB", (side, side)), default_prompt)])

    def reconfigure(self, batching: dict[str, Any]) -> None:
        """Serve calls it with the `user_config`, at the start and whenever that changes."""
        config = BatchingConfig.parse(batching)
        self._answer.set_max_batch_size(config.max_batch_megapixels)
        self._answer.set_batch_wait_timeout_s(config.batch_wait_timeout_s)

    async def ping(self) -> None:
        """Answered when the model is loaded and warm."""

    async def answer(self, question: Question) -> Answers:
        """Runs with the questions of several callers."""
        return await self._answer(question)

    @_batch(batch_size_fn=batch_megapixels)
    async def _answer(self, questions: list[Question]) -> list[Answers]:
        return await asyncio.to_thread(self._answer_all, questions)

    def _answer_all(self, questions: list[Question]) -> list[Answers]:
        self._metrics.batch(len(questions), batch_megapixels(questions))
        try:
            answers = self._predict(questions)
        except Exception as error:  # whatever one image does to the model, it must not take the others with it
            if len(questions) == 1:
                LOGGER.error("the model failed on an image of %d megapixels: %s", questions[0].megapixels, type(error))
                return [self._answers((), type(error).__name__)]
            return [self._answer_all([question])[0] for question in questions]
        for each in answers:
            self._metrics.predictions(each.predictions)
        return answers

    def _predict(self, questions: list[Question]) -> list[Answers]:
        queries, counts = [], []
        for each in questions:
            image = Image.fromarray(each.image)
            queries += [Query(image, prompt, threshold=each.threshold, cleanup=each.cleanup) for prompt in each.prompts]
            counts.append(len(each.prompts))
        predictions = iter(self._predictor.predict(queries))
        return [self._answers(tuple(next(predictions) for _ in range(n))) for n in counts]

    def _answers(self, predictions: tuple[Prediction, ...], error: str = "") -> Answers:
        return Answers(predictions, self._source.sha256, self._predictor.threshold, self._predictor.cleanup, error)
