import numpy as np
import pytest

from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.prepare.checks.corrections import corrections_of
from sa2va_ray.prepare.checks.validate import Checked
from sa2va_ray.prepare.records import Annotation, Provenance, Record

ARTERY, VEIN = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
ARTERY[:2], VEIN[4:6] = True, True


def dice(predicted, corrected, ignored=None, size=(8, 8)):
    objects = {phrase: [mask_to_rle(mask)] for phrase, mask in predicted.items()}
    prediction = Annotation(objects, size if objects else None, is_exact=True)
    provenance = Provenance(("a" * 64,), 30.0, "octa@0123456789ab", prediction)
    record = Record(0, "a.png", "/a.png", Annotation({}), provenance=provenance)
    row = corrections_of(record, Checked(np.zeros((8, 8), np.uint8), corrected, ignored, [], None, "b" * 64))
    assert (row["lead_time_s"], row["predicted_by"]) == (30.0, "octa@0123456789ab")
    return row["correction_dice"]


def test_what_was_left_as_it_was_has_a_dice_of_one():
    assert dice({"artery": ARTERY, "vein": VEIN}, {"artery": ARTERY, "vein": VEIN}) == 1
    assert dice({}, {"vessel": np.zeros((8, 8), bool)}) == 1


def test_phrases_that_were_taken_for_each_other_are_wrong():
    assert dice({"artery": ARTERY, "vein": VEIN}, {"artery": VEIN, "vein": ARTERY}) == 0
    assert dice({"artery": ARTERY}, {"artery": ARTERY, "vein": VEIN}) == pytest.approx(2 * 16 / 48)


def test_what_does_not_count_does_not_count_here():
    assert dice({"artery": ARTERY | VEIN}, {"artery": ARTERY}, ignored=VEIN) == 1


def test_a_prediction_of_another_size_is_not_compared():
    assert dice({"artery": np.ones((4, 4), bool)}, {"artery": ARTERY}, size=(4, 4)) is None


def test_nothing_is_told_of_other_labels():
    record = Record(0, "a.png", "/a.png", Annotation({}))
    assert corrections_of(record, Checked(np.zeros((8, 8), np.uint8), {}, None, [], None, "b" * 64)) == {}
