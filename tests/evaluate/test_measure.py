"""One answer against its truth."""

import math

import numpy as np
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.evaluate.passes.answers import NO_SEG, TOO_MANY_MASKS, UNREADABLE, _nothing, to_answer
from sa2va_ray.evaluate.passes.measure import Truth, _measure_one
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.metrics import METRICS
from sa2va_ray.predict.cleanup import NO_CLEANUP
from sa2va_ray.predict.predictor import Prediction

EMPTY = np.zeros((8, 8), bool)
SQUARE = EMPTY.copy()
SQUARE[2:5, 2:5] = True
IDS = {"row": 0, "place": 0, "sample_id": "s", "patient_id": "p", "phrase": "vessels"}


def to_truth(
    mask: np.ndarray,
    ignored: np.ndarray | None = None,
    annotators: list | None = None,
    spacing: list[float] | None = None,
) -> Truth:
    rle = None if ignored is None else mask_to_rle(ignored)
    objects = [{"phrase": "vessels", "rle": mask_to_rle(mask)}]
    return Truth.of({"objects": objects, "ignored": rle, "annotators": annotators, "pixel_spacing_mm": spacing}, 0)


def measured(truth: np.ndarray, *masks: np.ndarray, ignored: np.ndarray | None = None) -> dict:
    stacked = np.array(masks).reshape(-1, 8, 8)
    answer = to_answer(Prediction("", stacked, stacked.astype(np.float32), 0.0, 0.5, NO_CLEANUP))
    return _measure_one(IDS | answer, to_truth(truth, ignored), 1.0)


def test_no_mask_is_a_failure_where_there_is_something_to_find():
    assert measured(SQUARE)["failure"] == NO_SEG
    assert measured(SQUARE)["dice"] == 0
    assert not measured(SQUARE)["is_negative"]
    assert measured(SQUARE)["is_empty"]
    assert measured(SQUARE, EMPTY)["is_empty"]
    assert not measured(SQUARE, EMPTY, SQUARE)["is_empty"]


def test_no_mask_is_right_where_there_is_nothing():
    found = measured(EMPTY)
    assert (found["failure"], found["dice"], found["hd95"]) == ("", 1, 0)
    assert (found["has_mask"], found["is_negative"], found["is_false_alarm"]) == (False, True, False)
    assert not measured(EMPTY, EMPTY)["is_false_alarm"]


def test_a_mask_where_there_is_nothing_is_a_false_alarm():
    found = measured(EMPTY, SQUARE)
    assert (found["dice"], found["is_negative"], found["is_false_alarm"]) == (0, True, True)
    assert not measured(SQUARE, SQUARE)["is_false_alarm"]


@pytest.mark.parametrize("failure", [UNREADABLE, TOO_MANY_MASKS])
def test_an_answer_without_pixels_is_a_failure_whatever_is_on_the_image(failure):
    for truth in (EMPTY, SQUARE):
        row = _measure_one(IDS | _nothing(failure), to_truth(truth), 1.0)
        assert (row["failure"], row["has_mask"], row["is_empty"]) == (failure, False, True)
        assert row["dice"] == (not truth.any())
        assert row["is_false_alarm"] == (failure == TOO_MANY_MASKS and not truth.any())


def test_what_is_ignored_counts_nowhere():
    right = np.zeros((8, 8), bool)
    right[:, 5:] = True
    drawn, truth = SQUARE.copy(), SQUARE.copy()
    drawn[:4, 6], truth[5:, 7] = True, True  # wrong on both sides, where nothing counts
    found, expected = measured(truth, drawn, ignored=right), measured(SQUARE, SQUARE)
    assert {name: found[name] for name in METRICS} == {name: expected[name] for name in METRICS}
    assert found["counts"].sum() == found["reliability"][0].sum() == 64 - right.sum()
    assert found["widths"].sum() == SQUARE.sum()
    assert measured(right, right, ignored=right)["is_negative"]
    assert not measured(EMPTY, right, ignored=right)["is_false_alarm"]


VESSEL = np.zeros((8, 8), bool)
VESSEL[3] = True
MIDDLE = np.zeros((8, 8), bool)
MIDDLE[:, 3:5] = True


def test_outlines_and_pieces_are_those_of_masks_that_are_both_cleared_where_nothing_counts():
    """A vessel that crosses what is ignored is cut in both masks at the same place, whatever either has in between."""
    names = ("hd95", "surface_dice", "betti0_error", "betti1_error")
    gone, bent = VESSEL & ~MIDDLE, VESSEL ^ MIDDLE
    for drawn in (VESSEL, gone, bent):
        found = measured(VESSEL, drawn, ignored=MIDDLE)
        assert [found[name] for name in names] == [0, 1, 0, 0]
    assert measured(VESSEL, gone)["betti0_error"] == 1  # where all counts, it is a break
    assert measured(VESSEL, bent)["hd95"] > 1


def test_at_the_border_of_what_is_ignored_an_outline_is_one():
    """One mask reaches the border and the other stops before it: that is told, as anywhere else."""
    short = VESSEL.copy()
    short[3, :3] = False
    found = measured(VESSEL, short, ignored=MIDDLE)
    assert (found["betti0_error"], found["hd95"] > 1) == (1, True)
    around = np.ones((8, 8), bool)
    broken = around.copy()
    broken[3, 5:] = False
    hole = np.zeros((8, 8), bool)
    hole[3:5, 3:5] = True
    assert measured(around, around, ignored=hole)["betti1_error"] == 0
    assert measured(around, broken, ignored=hole)["betti1_error"] == 1  # what lies around it is a loop


def test_each_annotator_and_the_model_are_measured_against_the_others():
    shifted = np.roll(SQUARE, 1, axis=1)

    def says(who: str, *drawn: np.ndarray) -> dict:
        return {"annotator": who, "objects": [{"phrase": "vessels", "rle": mask_to_rle(each)} for each in drawn]}

    def people(*annotators: dict, ignored: np.ndarray | None = None) -> np.ndarray:
        answer = IDS | to_answer(Prediction("", SQUARE[None], SQUARE[None].astype(np.float32), 0.0, 0.5, NO_CLEANUP))
        return _measure_one(answer, to_truth(SQUARE, ignored, list(annotators)), 1.0, "majority")["people"]

    dice = METRICS.index("dice")
    two = people(says("a", SQUARE), says("b", shifted))
    assert two[:, dice] == pytest.approx([2 / 3, (2 / 3 + 1) / 2])
    three = people(says("a", SQUARE), says("b", SQUARE), says("c", shifted))
    # Of two others the majority is what both drew: 6 of 9 pixels for a and b.
    assert three[:, dice] == pytest.approx([(0.8 + 0.8 + 2 / 3) / 3, (0.8 + 0.8 + 1) / 3])
    assert people(says("a", SQUARE), says("b"))[:, dice] == pytest.approx([0, 0.5])
    right = np.zeros((8, 8), bool)
    right[:, 5:] = True
    apart = people(says("a", SQUARE | right), says("b", SQUARE), ignored=right)
    assert apart[:, dice] == pytest.approx([1, 1])
    for one in (people(), people(says("a", SQUARE))):
        assert np.isnan(one).all()
        assert one.shape == (2, len(METRICS))


@pytest.mark.parametrize(("spacing", "hd95_mm"), [([0.5, 0.5], 1.0), ([0.5, 0.2], 0.4), (None, math.nan)])
def test_distances_in_millimetres_where_the_spacing_is_known(spacing, hd95_mm):
    moved = np.roll(SQUARE, 2, axis=1)
    answer = IDS | to_answer(Prediction("", moved[None], moved[None].astype(np.float32), 0.0, 0.5, NO_CLEANUP))
    row = _measure_one(answer, to_truth(SQUARE, spacing=spacing), 1.0)
    assert row["hd95"] == 2
    assert row["hd95_mm"] == pytest.approx(hd95_mm, nan_ok=True)


def test_the_tolerance_of_outlines_has_a_bound():
    with pytest.raises(UserError, match=r"surface_tolerance_px.* 256"):
        EvaluateConfig.parse({"model": "m", "data_uri": "d", "out": "o", "surface_tolerance_px": 1e300})
