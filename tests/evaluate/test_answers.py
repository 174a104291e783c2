"""The actor that asks, called as Ray Data calls it, and what is made of its answers in each pass over them."""

import numpy as np
import pytest

from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.evaluate.inputs import MeasuredModel
from sa2va_ray.evaluate.passes import answers
from sa2va_ray.evaluate.passes.answers import TOO_MANY_MASKS, AnswerActor
from sa2va_ray.evaluate.report import extremes
from sa2va_ray.images.decode import to_png
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.models.baselines.config import FilterConfig
from sa2va_ray.models.baselines.vessel_filter import FittedFilter
from sa2va_ray.models.model_manifest import write_model_manifest
from sa2va_ray.models.sa2va.generation_sa2va import TooManyMasksError
from sa2va_ray.predict.baseline_predictors import CONFIG_FILE
from sa2va_ray.predict.predictor import most_masks

HEIGHTS = (40, 41, 40)


class Babbling:
    """A predictor that has more masks than are allowed of images of one height, as Sa2VA may; the filter has one."""

    def __init__(self, predictor, height):
        self._predictor, self._height, self.asked = predictor, height, []

    def predict(self, queries):
        self.asked += queries
        if any(query.image.height == self._height for query in queries):
            raise TooManyMasksError("The model's answer has 99 masks.")
        return self._predictor.predict(queries)


@pytest.fixture
def actor(tmp_path):
    fitted = FittedFilter(
        filter=FilterConfig(widths_px=(2.0,)), polarity="bright", cuts=(0.2, 0.4), levels=(0.1, 0.5, 0.9)
    )
    (tmp_path / CONFIG_FILE).write_text(fitted.model_dump_json())
    write_model_manifest(tmp_path, {"kind": "vessel_filter", "name": "filter", "threshold": 0.6})
    return AnswerActor(MeasuredModel.read(str(tmp_path)), "none")


def questions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = [to_png(rng.integers(0, 256, (height, 56), np.uint8)) for height in HEIGHTS]
    columns = {"row": range(3), "place": [0] * 3, "image": images, "phrase": ["vessels"] * 3}
    return {name: np.array([*values], object) for name, values in columns.items()}


def test_an_answer_of_too_many_masks_is_a_failure_and_costs_no_other_question_its_own(actor, monkeypatch):
    babbling = Babbling(actor._predictor, height=41)
    monkeypatch.setattr(actor, "_predictor", babbling)
    found = actor(questions())
    assert found["failure"] == ["", TOO_MANY_MASKS, ""]
    assert [len(levels) > 0 for levels in found["levels"]] == [True, False, True]
    assert found["row"] == [0, 1, 2]
    assert babbling.asked[0].prompt == evaluation_prompt("vessels")


def test_no_more_masks_are_allowed_than_memory_is_meant_for(actor, monkeypatch):
    """128 tokens of [SEG] on a large image are as many full-size maps."""
    babbling = Babbling(actor._predictor, height=None)
    monkeypatch.setattr(actor, "_predictor", babbling)
    actor(questions())
    assert [query.max_masks for query in babbling.asked] == [most_masks(height, 56) for height in HEIGHTS]


def test_the_page_draws_an_image_whose_answer_had_too_many_masks(monkeypatch):
    mask = np.ones((8, 8), bool)
    sample = {
        "image": to_png(np.zeros((8, 8), np.uint8)),
        "objects": [{"phrase": "vessels", "rle": mask_to_rle(mask)}],
        "ignored": None,
    }
    row = {"phrase": "vessels", **answers._nothing(TOO_MANY_MASKS)}
    drawn = extremes._draw([row], sample, {"vessels": (255, 0, 0)})
    assert drawn.any()
