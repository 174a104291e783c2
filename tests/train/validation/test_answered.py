"""What a validation tells of answers about what is, and what is not, on an image."""

import numpy as np
import pytest

from sa2va_ray.predict.cleanup import NO_CLEANUP
from sa2va_ray.predict.predictor import Prediction
from sa2va_ray.train.validation.passes import _quality
from sa2va_ray.train.validation.validate import _answered, _of_phrases

SQUARE = np.zeros((8, 8), bool)
SQUARE[2:5, 2:5] = True
EMPTY = np.zeros((8, 8), bool)


def said(*masks: np.ndarray) -> Prediction:
    stacked = np.array(masks).reshape(-1, 8, 8)
    return Prediction("", stacked, stacked.astype(np.float32), 0.0, 0.5, NO_CLEANUP)


def test_a_mask_where_there_is_nothing_is_a_false_alarm_and_none_is_right():
    silent, empty, alarmed = said(), said(EMPTY), said(SQUARE)
    assert [_quality([each], np.array([EMPTY]), None)["false_alarm_share"] for each in (silent, empty, alarmed)] == [
        0,
        0,
        1,
    ]
    assert [_quality([each], np.array([EMPTY]), None)["dice"] for each in (silent, empty, alarmed)] == [1, 1, 0]
    assert _quality([silent], np.array([EMPTY]), None)["seg_share"] is None
    there = _quality([said(SQUARE)], np.array([SQUARE]), None)
    assert (there["seg_share"], there["false_alarm_share"]) == (1, None)


def test_what_is_ignored_counts_nowhere():
    right = EMPTY.copy()
    right[:, 6:] = True
    found = _quality([said(SQUARE | right)], np.array([SQUARE]), right)
    assert found == _quality([said(SQUARE)], np.array([SQUARE]), None)
    assert _quality([said(right)], np.array([right]), right)["false_alarm_share"] == 0


def test_shares_are_means_over_the_images_that_they_can_be_told_of():
    images = [
        {"patient_id": "a", "sample_id": "1", **_quality([said(SQUARE)], np.array([SQUARE]), None)},
        {"patient_id": "a", "sample_id": "2", **_quality([said(SQUARE)], np.array([EMPTY]), None)},
        {"patient_id": "b", "sample_id": "3", **_quality([said(), said()], np.array([SQUARE, EMPTY]), None)},
    ]
    assert _answered(images) == pytest.approx({"val/seg_share": 0.5, "val/false_alarm_share": 0.5})
    assert _answered(images[:1]) == {"val/seg_share": 1.0}


def of(patient: str, sample: str, **dices: float) -> dict:
    return {"patient_id": patient, "sample_id": sample, "by_phrase": dices}


def test_each_phrase_has_its_own_dice_where_there_are_several():
    images = [of("a", "1", artery=0.2, vein=1.0), of("a", "2", artery=0.4), of("b", "3", artery=0.9)]
    assert _of_phrases(images) == pytest.approx({"val/dice_of/artery": 0.6, "val/dice_of/vein": 1.0})
    assert _of_phrases([of("a", "1", vessel=0.2)]) == {}


def test_curves_of_phrases_have_names_that_trackers_take_and_are_a_dozen_at_most():
    named = {"blood vessels": 0.1, "a b": 0.2, "a_b": 0.3, "\u9759\u8109": 0.4}
    assert set(_of_phrases([of("a", "1", **named)])) == {
        f"val/dice_of/{name}" for name in ("blood_vessels", "phrase_1", "phrase_2", "phrase_4")
    }
    for odd in (
        {"???": 0.1, "a": 0.2},
        {"phrase 2": 0.1, "\u9759\u8109": 0.2},
        {"_": 0.1, "phrase 1": 0.2, "phrase 2": 0.3},
    ):
        told = _of_phrases([of("a", "1", **odd)])
        assert sorted(told.values()) == sorted(odd.values()), "none is lost to another of its name"
        assert "val/dice_of/" not in told
    assert len(_of_phrases([of("a", "1", **{f"phrase {n}": 1.0 for n in range(20)})])) == 12
