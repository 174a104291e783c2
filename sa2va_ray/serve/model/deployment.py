"""The model deployment: the predictor behind dynamic batches."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from PIL import Image
from ray import serve

from sa2va_ray.config import UserError
from sa2va_ray.interpreter import importing
from sa2va_ray.serve.config import BatchingConfig, ModelArgs
from sa2va_ray.serve.messages import Calibration, ModelReply, PromptResult, Question, megapixels
from sa2va_ray.serve.metrics import ModelMetrics
from sa2va_ray.serve.model.batching_gate import BatchingGate
from sa2va_ray.serve.model.compile_cache import compile_cache
from sa2va_ray.serve.model.weights import ModelSource, load_on_node
from sa2va_ray.serve.problems import Problem
from sa2va_ray.serve.process_setup import prepare_process
from sa2va_ray.serve.weighted_semaphore import WeightedSemaphore
from sa2va_ray.telemetry import LOGGER, StartTimes

if TYPE_CHECKING:  # a replica imports them when it starts; the task that builds the application, 7 s sooner done, never
    from sa2va_ray.predict.load import Predictor
    from sa2va_ray.predict.predictor import Prediction
    from sa2va_ray.serve.model.batch_runner import Predicted

_WARM_UP_SIDES = (64, 512)  # px
_NUM_CLEANING = 2  # threads
_BATCHES_AT_HAND = 2  # one in the model, one for its thread to go on with
_BATCHES_IN_MEMORY = 3  # one that waits, one in the model, one that is being finished
_batch: Any = serve.batch  # its annotations know neither methods of several arguments nor the setters it adds


def batch_megapixels(questions: Sequence[Question]) -> int:
    """The size by which Serve fills a batch. Serve refuses an item that is larger than a whole batch, so such a
    question, which runs alone, counts as 1."""
    return megapixels(questions) if len(questions) > 1 else 1


@serve.deployment
class SegmentationModel:
    """One replica: a model on one device."""

    def __init__(self, name: str, source: ModelSource, cache_dir: str, args: ModelArgs, max_prompt_tokens: int):
        with importing():
            from sa2va_ray.predict.load import load_predictor
            from sa2va_ray.predict.predictor import Query
            from sa2va_ray.serve.model.batch_runner import BatchRunner

        prepare_process()
        times = StartTimes()
        self._source, self._args, self._max_prompt_tokens = source, args, max_prompt_tokens
        self._predictor: Predictor = load_on_node(source, cache_dir, load_predictor)
        times.lap("model loaded")
        if (most := self._predictor.num_tokens(args.default_prompt)) > max_prompt_tokens:
            raise UserError(
                f"default_prompt has {most} tokens, limits.max_prompt_tokens is {max_prompt_tokens}. Shorten the one, "
                "or raise the other."
            )
        if args.compile:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = compile_cache(cache_dir)
        self._metrics = ModelMetrics(name)
        self._runner = BatchRunner(self._predictor, self._metrics)
        warm_up = [Query(Image.new("RGB", (side, side)), args.default_prompt) for side in _WARM_UP_SIDES]
        self._runner.warm_up(warm_up, compiled=args.compile)
        times.lap("compiled and warmed up" if args.compile else "warmed up")
        self._room = self._runner.images_that_fit(args.default_prompt, args.batching.max_batch_megapixels)
        self._cleaning = ThreadPoolExecutor(_NUM_CLEANING)
        self._gate, self._memory = BatchingGate(), WeightedSemaphore(0)  # until `reconfigure`
        times.lap("room for batches found")
        LOGGER.info("a replica of %s has started in %s", name, times)

    def reconfigure(self, batching: dict[str, Any]) -> None:
        """Serve calls it with the `user_config`, at the start and whenever that changes. A replica that is at work goes
        on as it was where that is wrong: to end with an error would end the endpoint."""
        try:
            config = BatchingConfig.parse(batching)
            self._args.check_batching(config)
        except (UserError, ValueError) as error:
            if not self._memory.size:
                raise
            LOGGER.error("the batching stays as it was: %s", error)
            return
        largest = self._largest_batch(config.max_batch_megapixels)
        self._gate.max_megapixels = largest
        self._memory.size = _BATCHES_IN_MEMORY * largest
        self._answer.set_max_batch_size(largest)
        self._answer.set_batch_wait_timeout_s(config.batch_wait_timeout_s)

    def _largest_batch(self, wanted: int) -> int:
        """In megapixels: as wanted, if what is free of the GPU's memory allows it."""
        if self._room is None or wanted <= self._room:
            return wanted
        LOGGER.warning(
            "batches are of %d megapixels at most, not of %d as batching.max_batch_megapixels says: there is no room "
            "for more on this GPU beside the model. Weights of 8 bits (jobs.export quantise=int8) leave more.",
            self._room,
            wanted,
        )
        return self._room

    async def answer(self, question: Question) -> ModelReply:
        """Runs with the questions of several callers: of those that came while the model was busy, as many as a batch
        may hold. A question that is larger than a batch is asked in parts, so that its probabilities, four bytes for
        each pixel and mask, are in memory for one part at a time."""
        calibration = self._calibration(question)
        question = question.settled(calibration)
        results: tuple[PromptResult, ...] = ()
        predict_ms = 0.0
        for part in question.parts(self._gate.max_megapixels):
            async with self._memory.hold(part.megapixels):
                async with self._gate.admitted(part.megapixels):
                    predictions, part_ms = await self._answer(part)
                predict_ms += part_ms
                if isinstance(predictions, Problem):
                    return ModelReply((), calibration, predict_ms, predictions)
                # In a thread of its own: clean-up takes long on a large image, and the model goes on meanwhile.
                loop = asyncio.get_running_loop()
                results += await loop.run_in_executor(self._cleaning, self._finish, part, predictions)
        return ModelReply(results, calibration, predict_ms)

    def _calibration(self, question: Question) -> Calibration:
        """The one that the question brings, if it is of these weights; during a rolling update it may be of others."""
        brought = question.calibration
        return brought if brought and brought.sha256 == self._source.sha256 else self._source.calibration

    @_batch(batch_size_fn=batch_megapixels, max_concurrent_batches=_BATCHES_AT_HAND)
    async def _answer(self, questions: list[Question]) -> "list[Predicted]":
        with self._gate.batch_running():
            problems = [self._problem_of(question) for question in questions]
            good = [question for question, problem in zip(questions, problems, strict=True) if problem is None]
            predicted = iter(await self._runner.answer(good) if good else ())
            return [next(predicted) if problem is None else (problem, 0.0) for problem in problems]

    def _finish(self, question: Question, predictions: "Sequence[Prediction]") -> tuple[PromptResult, ...]:
        assert question.cleanup is not None, "`answer` has settled it"
        cleaned = (prediction.cleaned(question.cleanup) for prediction in predictions)
        results = tuple(PromptResult.from_prediction(each, question.wants_probabilities) for each in cleaned)
        self._metrics.results(results)
        return results

    def _problem_of(self, question: Question) -> Problem | None:
        most = max(map(self._predictor.num_tokens, question.prompts))
        if most <= self._max_prompt_tokens:
            return None
        return Problem(
            422,
            "Wrong field",
            f"prompt: {most} tokens, the limit is {self._max_prompt_tokens}.",
            "Ask a shorter question.",
        )
