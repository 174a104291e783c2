"""The model deployment: a shim of dynamic batches around the predictor."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image
from ray import serve

from sa2va_ray.predict.load import Predictor, load_predictor
from sa2va_ray.predict.predictor import Prediction, Query
from sa2va_ray.serve.config import BatchingConfig
from sa2va_ray.serve.messages import Answers, Finding, Question
from sa2va_ray.serve.metrics import ModelMetrics
from sa2va_ray.serve.process import prepare_process
from sa2va_ray.serve.turnstile import Turnstile
from sa2va_ray.serve.weights import ModelSource, local_model
from sa2va_ray.telemetry import LOGGER, Stopwatch

_WARM_UP_SIDES = (64, 512)  # px
_batch: Any = serve.batch  # its annotations know neither methods of several arguments nor the setters it adds


def megapixels(questions: Sequence[Question]) -> int:
    return sum(question.megapixels for question in questions)


def batch_megapixels(questions: Sequence[Question]) -> int:
    """By which Serve fills a batch. It refuses an item that is larger than a whole batch, which here runs alone."""
    return megapixels(questions) if len(questions) > 1 else 1


@serve.deployment
class SegmentationModel:
    """One replica: a model on one device."""

    def __init__(self, name: str, source: ModelSource, cache_dir: str, default_prompt: str):
        prepare_process()
        self._source = source
        self._predictor: Predictor = load_predictor(local_model(source, cache_dir))
        self._metrics = ModelMetrics(name)
        # CUDA's libraries keep handles and plans by thread: one thread makes them once, and not each of a pool.
        self._thread = ThreadPoolExecutor(1)
        self._turnstile = Turnstile()
        # The first passes are slow (kernels, threads); they should not be a user's.
        for side in _WARM_UP_SIDES:
            warm_up = [Query(Image.new("RGB", (side, side)), default_prompt)]
            self._thread.submit(self._predictor.predict, warm_up).result()

    def reconfigure(self, batching: dict[str, Any]) -> None:
        """Serve calls it with the `user_config`, at the start and whenever that changes."""
        config = BatchingConfig.parse(batching)
        self._turnstile.max_megapixels = config.max_batch_megapixels
        self._answer.set_max_batch_size(config.max_batch_megapixels)
        self._answer.set_batch_wait_timeout_s(config.batch_wait_timeout_s)

    async def ping(self) -> None:
        """Answered when the model is loaded and warm."""

    async def answer(self, question: Question) -> Answers:
        """Runs with the questions of several callers: of those that came while the model was busy, as many as a batch
        may hold."""
        async with self._turnstile.inside(question.megapixels):
            return await self._answer(question)

    @_batch(batch_size_fn=batch_megapixels)
    async def _answer(self, questions: list[Question]) -> list[Answers]:
        async with self._turnstile.closed():
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer_all, questions)

    def _answer_all(self, questions: list[Question]) -> list[Answers]:
        self._metrics.batch(len(questions), megapixels(questions))
        watch = Stopwatch()
        try:
            predictions = iter(self._predict(questions))
        except Exception as error:  # whatever one image does to the model, it must not take the others with it
            kind = type(error).__name__
            LOGGER.error(
                "the model failed on %d images, %d megapixels: %s", len(questions), megapixels(questions), kind
            )
            if len(questions) == 1:
                return [self._answers((), 1000 * watch.lap_s(), kind)]
            return [self._answer_all([question])[0] for question in questions]
        predict_ms = 1000 * watch.lap_s()
        answers = []
        for question in questions:
            found = tuple(Finding.of(next(predictions), question.wants_probabilities) for _ in question.prompts)
            self._metrics.findings(found)
            answers.append(self._answers(found, predict_ms))
        return answers

    def _predict(self, questions: list[Question]) -> list[Prediction]:
        """One for each prompt of each question."""
        queries = []
        for each in questions:
            image = Image.fromarray(each.image)
            queries += [Query(image, prompt, threshold=each.threshold, cleanup=each.cleanup) for prompt in each.prompts]
        return self._predictor.predict(queries)

    def _answers(self, findings: tuple[Finding, ...], predict_ms: float, error: str = "") -> Answers:
        model = self._predictor
        return Answers(findings, self._source.sha256, model.threshold, model.cleanup, predict_ms, error)
