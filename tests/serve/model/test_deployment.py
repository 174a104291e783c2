"""A replica whose model fails: what becomes of the other questions of the batch."""

import asyncio
import threading
from dataclasses import replace

import numpy as np

from sa2va_ray.predict.cleanup import NO_CLEANUP, CleanupConfig
from sa2va_ray.predict.predictor import Prediction, Query
from sa2va_ray.serve.messages import Calibration, Question
from sa2va_ray.serve.metrics import ModelMetrics
from sa2va_ray.serve.model.batch_runner import BatchRunner
from sa2va_ray.serve.model.deployment import SegmentationModel
from sa2va_ray.serve.model.weights import ModelSource
from sa2va_ray.serve.problems import Problem

Replica = SegmentationModel.func_or_class


class SmallGpu:
    """A model with room for a few images, which cannot work on black ones."""

    def __init__(self, room: int):
        self.room = room
        self.batches: list[int] = []

    def prepare(self, queries: list[Query]) -> list[Query]:
        return queries

    def run(self, queries: list[Query]) -> list[Prediction]:
        self.batches.append(len(queries))
        if len(queries) > self.room:
            raise MemoryError
        if not all(query.image.any() for query in queries):
            raise ZeroDivisionError
        return [_prediction(float(query.image.max())) for query in queries]

    def finish(self, predictions: list[Prediction]) -> list[Prediction]:
        return predictions


def _prediction(score: float) -> Prediction:
    empty = np.zeros((0, 2, 2))
    return Prediction("", empty.astype(bool), empty, score, 0.5, NO_CLEANUP)


def answers(gpu: SmallGpu, values: list[int]) -> list[float | str]:
    """What questions about images of these values get: the value again, or the problem."""
    questions = [Question(np.full((2, 2), value, np.uint8), ("a",)) for value in values]
    found = asyncio.run(BatchRunner(gpu, ModelMetrics("test")).answer(questions))
    return [each.title if isinstance(each, Problem) else each[0].score for each, _ in found]


def test_a_batch_that_has_no_room_is_answered_in_halves():
    gpu = SmallGpu(room=4)
    assert answers(gpu, list(range(1, 17))) == list(range(1, 17))
    assert gpu.batches == [16, 8, 4, 4, 8, 4, 4]


def test_an_image_on_which_the_model_fails_fails_alone():
    assert answers(SmallGpu(room=99), [1, 2, 3, 0, 5, 6, 7]) == [1, 2, 3, "The model failed", 5, 6, 7]


def test_a_failed_image_tells_the_time_that_it_took():
    questions = [Question(np.zeros((2, 2), np.uint8), ("a",))]
    ((problem, milliseconds),) = asyncio.run(BatchRunner(SmallGpu(room=9), ModelMetrics("test")).answer(questions))
    assert isinstance(problem, Problem)
    assert milliseconds > 0


def test_one_image_for_which_there_is_no_room_is_told():
    assert answers(SmallGpu(room=0), [1, 2]) == ["The model failed", "The model failed"]


def test_stages_of_batches_overlap():
    """Two batches in the three stages at once: one is prepared while the model is at work on the other."""
    is_running, is_prepared = threading.Event(), threading.Event()

    class Watched(SmallGpu):
        def prepare(self, queries: list[Query]) -> list[Query]:
            if is_running.is_set():
                is_prepared.set()
            return queries

        def run(self, queries: list[Query]) -> list[Prediction]:
            is_running.set()
            assert is_prepared.wait(10), "nothing was prepared while the model was at work"
            return super().run(queries)

    async def both() -> list:
        runner = BatchRunner(Watched(room=9), ModelMetrics("test"))
        first = asyncio.create_task(runner.answer([Question(np.ones((2, 2), np.uint8), ("a",))]))
        await asyncio.to_thread(is_running.wait, 10)
        return await asyncio.gather(first, runner.answer([Question(np.full((2, 2), 2, np.uint8), ("a",))]))

    assert [found[0][0][0].score for found in asyncio.run(both())] == [1, 2]


def test_a_question_is_settled_by_the_calibration_that_it_brings_if_that_is_of_these_weights():
    replica = Replica.__new__(Replica)
    replica._source = ModelSource("here", "0" * 64, 0.5, NO_CLEANUP)
    brought = Calibration("0" * 64, 0.3, CleanupConfig(close_px=1))
    question = Question(np.ones((2, 2), np.uint8), ("a",), calibration=brought)
    assert replica._calibration(question) == brought
    of_others = replace(question, calibration=replace(brought, sha256="1" * 64))
    assert replica._calibration(of_others) == Calibration("0" * 64, 0.5, NO_CLEANUP)
    settled = replace(question, threshold=0.9).settled(brought)
    assert (settled.threshold, settled.cleanup) == (0.9, brought.cleanup)


def test_a_batch_is_no_larger_than_what_the_gpu_has_room_for():
    replica = Replica.__new__(Replica)
    replica._room = 3
    assert [replica._largest_batch(wanted) for wanted in (2, 3, 16)] == [2, 3, 3]
    replica._room = None  # a CPU
    assert replica._largest_batch(16) == 16
