"""A batch of questions on its way through the predictor."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sa2va_ray.models.sa2va.generation_sa2va import TooManyMasksError
from sa2va_ray.predict.batch_room import images_that_fit
from sa2va_ray.predict.cleanup import NO_CLEANUP
from sa2va_ray.predict.load import Predictor
from sa2va_ray.predict.predictor import Prediction, Query, most_masks
from sa2va_ray.serve.messages import Question, megapixels
from sa2va_ray.serve.metrics import ModelMetrics
from sa2va_ray.serve.problems import Problem
from sa2va_ray.telemetry import LOGGER, Stopwatch

Predicted = tuple[Sequence[Prediction] | Problem, float]
"""One prediction for each prompt, or why there is none; and the ms that the batch took."""

Given = TypeVar("Given")
Made = TypeVar("Made")


class BatchRunner:
    """Each stage of the predictor has a thread of its own, so that one batch is prepared, and another finished, while
    the model is at work on a third."""

    def __init__(self, predictor: Predictor, metrics: ModelMetrics):
        self._predictor, self._metrics = predictor, metrics
        # CUDA's libraries keep handles and plans by thread: one thread makes them once, and not each of a pool.
        self._preparing, self._running, self._finishing = (
            ThreadPoolExecutor(1),
            ThreadPoolExecutor(1),
            ThreadPoolExecutor(1),
        )

    def warm_up(self, queries: Sequence[Query], compiled: bool) -> None:
        """The first passes are slow (kernels, threads, and `Predictor.compile`); they should not be a user's."""
        if compiled:
            self._running.submit(self._predictor.compile).result()
        for query in queries:
            prepared = self._preparing.submit(self._predictor.prepare, [query]).result()
            running = self._running.submit(self._predictor.run, prepared).result()
            self._finishing.submit(self._predictor.finish, running).result()

    def images_that_fit(self, prompt: str, wanted: int) -> int | None:
        """Most images of one megapixel in a batch, by what is free of the GPU's memory, tried up to `wanted`; None on a
        CPU."""
        if self._predictor.device.type != "cuda":
            return None
        predict, device = self._predictor.predict, self._predictor.device
        return self._running.submit(images_that_fit, predict, prompt, device, wanted).result()

    async def answer(self, questions: Sequence[Question]) -> list[Predicted]:
        """Whatever one image does to the model, it must not take the others with it, nor must a batch fail that has no
        room on the GPU: a batch that fails is answered in two halves. Masks are not cleaned up yet."""
        self._metrics.batch(len(questions), megapixels(questions))
        error: Exception
        watch = Stopwatch()
        try:
            return await self._predict(questions)
        except Exception as found:
            error = found.with_traceback(None)  # its frames hold the memory that the halves need
        kind = type(error).__name__
        LOGGER.error("the model failed on %d images, %d megapixels: %s", len(questions), megapixels(questions), kind)
        if len(questions) == 1:
            return [(_problem(error), 1000 * watch.lap_s())]
        half = len(questions) // 2
        return await self.answer(questions[:half]) + await self.answer(questions[half:])

    async def _predict(self, questions: Sequence[Question]) -> list[Predicted]:
        prepared, prepare_ms = await _timed(self._preparing, self._predictor.prepare, _queries(questions))
        running, run_ms = await _timed(self._running, self._predictor.run, prepared)
        predictions, finish_ms = await _timed(self._finishing, self._predictor.finish, running)
        rest = iter(predictions)
        return [([next(rest) for _ in each.prompts], prepare_ms + run_ms + finish_ms) for each in questions]


async def _timed(thread: ThreadPoolExecutor, stage: Callable[[Given], Made], given: Given) -> tuple[Made, float]:
    """What a stage makes in its thread, and the ms that it took there."""

    def timed() -> tuple[Made, float]:
        watch = Stopwatch()
        return stage(given), 1000 * watch.lap_s()

    return await asyncio.get_running_loop().run_in_executor(thread, timed)


def _queries(questions: Sequence[Question]) -> list[Query]:
    queries = []
    for each in questions:
        most = most_masks(*each.image.shape[:2])
        queries += [
            Query(each.image, prompt, threshold=each.threshold, cleanup=NO_CLEANUP, max_masks=most)
            for prompt in each.prompts
        ]
    return queries


def _problem(error: Exception) -> Problem:
    if isinstance(error, TooManyMasksError):
        return Problem(
            422, "Too many masks", str(error), "Ask as the model was trained to be asked, or send it smaller."
        )
    return Problem(
        422,
        "The model failed",
        f"The model could not work on this image ({type(error).__name__}). Other requests are not touched.",
        "Send it smaller, or in 8 bits; tell whoever runs this endpoint the request id.",
    )
