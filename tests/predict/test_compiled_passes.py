"""Passes that run otherwise give what the plain ones give. Without a GPU nothing is compiled or captured: what is
tested here is how batches are cut, padded and put together; `test_on_a_gpu` does the rest where there is one."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.predict import build, teach_the_draft
from sa2va_ray.predict import compiled_passes
from sa2va_ray.predict.compiled_passes import CompiledPasses
from sa2va_ray.predict.predictor import Prediction, Query, Sa2VAPredictor


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(64, 64)] * 4 + [(300, 90), (64, 64), (70, 50)]
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def queries() -> list[Query]:
    """One image twice, an answer with two objects, one with none, and one whose draft may be wrong."""
    images = pictures()
    asked = [Query(image, "Please segment it.", answer="[SEG]") for image in images]
    return [
        *asked,
        Query(images[0], "a"),
        Query(images[1], "a", answer="[SEG] and [SEG]."),
        Query(images[2], "a", answer="None."),
    ]


@pytest.fixture(scope="module", params=["says the draft", "says something else"])
def predictors(request, module_monkeypatch):
    """(plain, with other passes), of one model each."""
    module_monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    model, processor = build("tiny", "cpu")
    if request.param == "says the draft":
        teach_the_draft(model, processor)
    other = Sa2VAPredictor(model, processor)
    other._passes = CompiledPasses(model)
    return Sa2VAPredictor(model, processor), other


@pytest.fixture(scope="module")
def module_monkeypatch():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


def assert_same(expected: list[Prediction], found: list[Prediction], atol: float) -> None:
    for one, other in zip(expected, found, strict=True):
        assert one.text == other.text
        assert one.masks.shape == other.masks.shape
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=atol)
        assert one.score == pytest.approx(other.score, abs=atol)


@pytest.mark.parametrize("number", [1, 3, 4, 5, 10])
def test_the_same_answers(predictors, number):
    plain, other = predictors
    asked = queries()[-number:]
    assert_same(plain.predict(asked, max_new_tokens=12), other.predict(asked, max_new_tokens=12), atol=1e-4)


def test_chunks_are_all_of_them_in_order():
    for number in range(14):
        places = [place for chunk in compiled_passes._chunks(number) for place in range(number)[chunk]]
        assert places == list(range(number))


@pytest.mark.gpu
def test_on_a_gpu_with_graphs_and_compiled_layers():
    model, processor = build("tiny", "cuda")
    teach_the_draft(model, processor)
    predictor = Sa2VAPredictor(model, processor)
    expected = predictor.predict(queries())
    one_by_one = [predictor.predict([query])[0] for query in queries()]
    predictor.compile()
    assert predictor._passes._graphs
    assert_same(expected, predictor.predict(queries()), atol=0.02)  # bfloat16
    assert_same(one_by_one, [predictor.predict([query])[0] for query in queries()], atol=0.02)
