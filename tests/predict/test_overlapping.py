"""Many batches through a predictor: what one call for each gives, in order, and the stages overlap."""

import threading
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from benchmarks.overlapping import predict_batches
from benchmarks.predict import build
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor


def batches() -> list[list[Query]]:
    random = np.random.default_rng(0)
    sizes = [(64, 64), (70, 50), (64, 64)]
    images = [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]
    queries = [Query(image, "Please segment it.", answer="[SEG]") for image in images]
    return [queries[:2], queries[2:], queries]


def test_the_predictions_of_each_batch_in_order():
    predictor = Sa2VAPredictor(*build("tiny", "cpu"))
    found = list(predict_batches(predictor, batches()))
    expected = [predictor.predict(batch) for batch in batches()]
    assert [len(each) for each in found] == [2, 1, 3]
    for one, other in zip(chain(*expected), chain(*found), strict=True):
        assert one.text == other.text
        assert np.array_equal(one.probabilities, other.probabilities)
        assert one.score == other.score


def test_no_batch():
    assert list(predict_batches(Stages(), [])) == []


class Stages:
    """Numbers in place of batches. The model waits until the next batch is prepared and the one before is finished."""

    def __init__(self, wrong: int | None = None):
        self.wrong = wrong
        self.prepared = [threading.Event() for _ in range(5)]
        self.finished = [threading.Event() for _ in range(5)]

    def prepare(self, number: int) -> int:
        if number == self.wrong:
            raise ZeroDivisionError
        self.prepared[number].set()
        return number

    def run(self, number: int) -> int:
        assert number == 4 or self.prepared[number + 1].wait(10)
        assert number == 0 or self.finished[number - 1].wait(10)
        return number

    def finish(self, number: int) -> int:
        self.finished[number].set()
        return number


def test_stages_overlap():
    assert list(predict_batches(Stages(), range(5))) == [0, 1, 2, 3, 4]


def test_a_batch_that_cannot_be_prepared_ends_it():
    stages = Stages(wrong=4)
    stages.prepared[4].set()
    with pytest.raises(ZeroDivisionError):
        list(predict_batches(stages, range(5)))
