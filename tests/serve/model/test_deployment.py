"""A replica whose model fails: what becomes of the other questions of the batch."""

from dataclasses import replace

import numpy as np
import pytest

from sa2va_ray.predict.cleanup import NO_CLEANUP, CleanupConfig
from sa2va_ray.predict.predictor import Prediction, Query
from sa2va_ray.serve.messages import Calibration, Question
from sa2va_ray.serve.metrics import ModelMetrics
from sa2va_ray.serve.model.deployment import SegmentationModel
from sa2va_ray.serve.model.weights import ModelSource
from sa2va_ray.serve.problems import Problem

Replica = SegmentationModel.func_or_class


class SmallGpu:
    """A model with room for a few images, which cannot work on black ones."""

    def __init__(self, room: int):
        self.room = room
        self.batches: list[int] = []

    def predict(self, queries: list[Query]) -> list[Prediction]:
        self.batches.append(len(queries))
        if len(queries) > self.room:
            raise MemoryError
        if not all(query.image.any() for query in queries):
            raise ZeroDivisionError
        return [_prediction(float(query.image.max())) for query in queries]


def _prediction(score: float) -> Prediction:
    empty = np.zeros((0, 2, 2))
    return Prediction("", empty.astype(bool), empty, score, 0.5, NO_CLEANUP)


@pytest.fixture
def replica():
    made = Replica.__new__(Replica)
    made._source = ModelSource("here", "0" * 64, 0.5, NO_CLEANUP)
    made._metrics = ModelMetrics("test")
    return made


def answers(replica, values: list[int]) -> list[float | str]:
    """What questions about images of these values get: the value again, or the problem."""
    questions = [Question(np.full((2, 2), value, np.uint8), ("a",)) for value in values]
    found = [predicted for predicted, _ in replica._predict_good(questions)]
    return [each.title if isinstance(each, Problem) else each[0].score for each in found]


def test_a_batch_that_has_no_room_is_answered_in_halves(replica):
    replica._predictor = SmallGpu(room=4)
    assert answers(replica, list(range(1, 17))) == list(range(1, 17))
    assert replica._predictor.batches == [16, 8, 4, 4, 8, 4, 4]


def test_an_image_on_which_the_model_fails_fails_alone(replica):
    replica._predictor = SmallGpu(room=99)
    assert answers(replica, [1, 2, 3, 0, 5, 6, 7]) == [1, 2, 3, "The model failed", 5, 6, 7]


def test_one_image_for_which_there_is_no_room_is_told(replica):
    replica._predictor = SmallGpu(room=0)
    assert answers(replica, [1, 2]) == ["The model failed", "The model failed"]


def test_a_question_is_settled_by_the_calibration_that_it_brings_if_that_is_of_these_weights(replica):
    brought = Calibration("0" * 64, 0.3, CleanupConfig(close_px=1))
    question = Question(np.ones((2, 2), np.uint8), ("a",), calibration=brought)
    assert replica._calibration(question) == brought
    of_others = replace(question, calibration=replace(brought, sha256="1" * 64))
    assert replica._calibration(of_others) == Calibration("0" * 64, 0.5, NO_CLEANUP)
    settled = replace(question, threshold=0.9).settled(brought)
    assert (settled.threshold, settled.cleanup) == (0.9, brought.cleanup)
