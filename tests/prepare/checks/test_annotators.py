"""Samples that several people annotated."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.prepare.checks.validate import check_sample
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.examine import content_sha256
from sa2va_ray.prepare.records import Annotation, Finding, LabelFile, Record, Rejected, SeveralLabels
from sa2va_ray.prepare.sources.mask_images import read_mask

SIZE = (20, 40)
PHRASE = "blood vessels"


def box(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


LEFT, MIDDLE, RIGHT = box(5, 5, 15, 15), box(5, 8, 15, 18), box(5, 25, 15, 35)


def label(**masks):
    return Annotation({phrase.replace("_", " "): [mask_to_rle(mask)] for phrase, mask in masks.items()})


@pytest.fixture
def check(tmp_path):
    """Checks one image as these annotators annotated it."""
    path = tmp_path / "MuellerHans.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)).save(path)

    def check_it(*labels, annotators="majority", findings=(), field_of_view=None, is_listed=False, **fields):
        settings = PrepareConfig(source="-", out="-", annotators=annotators, **fields)
        several = SeveralLabels({f"a{number}": each for number, each in enumerate(labels)}, findings)
        view = None
        if field_of_view is not None:
            view = str(tmp_path / "view.png")
            Image.fromarray(field_of_view.astype(np.uint8) * 255).save(view)
        item = Record(0, path.name, str(path), several, field_of_view_uri=view, is_listed_negative=is_listed)
        return check_sample(item, settings)

    return check_it


def rejection(check, *labels, **fields):
    with pytest.raises(Rejected) as caught:
        check(*labels, **fields)
    assert "Mueller" not in str(caught.value)
    return caught.value


def test_the_truth_is_what_most_drew_and_each_is_kept(check):
    checked = check(label(vessel=LEFT), label(vessel=MIDDLE), label(vessel=LEFT | RIGHT))
    np.testing.assert_array_equal(checked.masks["vessel"], LEFT)
    np.testing.assert_array_equal(checked.by_annotator["a1"]["vessel"], MIDDLE)
    assert checked.findings == []
    # Dice of the pairs: 0.7, 2 / 3, and 140 / 300.
    assert checked.agreement == pytest.approx((0.7 + 2 / 3 + 140 / 300) / 3)
    assert checked.dice_of_annotators == pytest.approx({"a0": 1, "a1": 0.7, "a2": 2 / 3})


def test_of_two_the_majority_is_what_both_drew(check):
    checked = check(label(vessel=LEFT), label(vessel=MIDDLE))
    np.testing.assert_array_equal(checked.masks["vessel"], LEFT & MIDDLE)


def test_staple_is_another_truth(check):
    noisy = [label(vessel=LEFT ^ box(0, number, 3, number + 2)) for number in (20, 24)]
    hasty = [label(vessel=box(5, 5, 6, 15))] * 2 + [label(vessel=RIGHT)]
    by_staple, by_majority = (check(*noisy, *hasty, annotators=how) for how in ("staple", "majority"))
    np.testing.assert_array_equal(by_staple.masks["vessel"], LEFT)
    np.testing.assert_array_equal(by_majority.masks["vessel"], box(5, 5, 6, 15))


def test_phrases_are_agreed_on_one_by_one(check):
    checked = check(label(artery=LEFT, vein=RIGHT), label(artery=MIDDLE), label(artery=LEFT))
    assert list(checked.masks) == ["artery"]
    assert [each.code for each in checked.findings] == ["minority_object"]
    assert "1 object(s) that at most half of 3 annotators drew" in checked.findings[0].detail
    assert list(checked.by_annotator["a0"]) == ["artery", "vein"]


@pytest.mark.parametrize("annotators", ["majority", "staple"])
def test_no_pixel_that_they_agree_on(check, annotators):
    if annotators == "majority":
        rejected = rejection(check, label(vessel=LEFT), label(vessel=RIGHT))
        assert rejected.code == "no_consensus"
        assert "2 annotators drew 1 object(s), and agree by annotators=majority on no pixel of 1" in rejected.reason
    other_phrases = rejection(check, label(artery=LEFT), label(vein=LEFT))
    assert other_phrases.code == "no_consensus"
    assert "on no pixel of 2 of them" in other_phrases.reason


def test_annotators_who_hardly_agree(check):
    drawn = [label(vessel=LEFT), label(vessel=RIGHT | box(5, 14, 15, 15))]
    rejected = rejection(check, *drawn)
    assert rejected.code == "no_consensus"
    assert "every two of 2 annotators is 0.095, and checks.min_agreement 0.2." in rejected.reason
    assert check(*drawn, checks={"min_agreement": 0.09}).num_objects == 1


def test_an_annotator_who_drew_nothing_is_a_slip_unless_it_may_be(check):
    drawn = [label(vessel=LEFT), Annotation({}), Annotation({})]
    rejected = rejection(check, *drawn)
    assert rejected.code == "no_objects"
    assert "2 of 3 annotators drew no object" in rejected.reason
    checked = check(*drawn, negatives="allow")
    assert list(checked.masks) == ["vessel"]
    assert checked.num_objects == 0
    assert check(*drawn, is_listed=True).num_objects == 0
    checked = check(*drawn[:2], label(vessel=MIDDLE), negatives="allow")
    np.testing.assert_array_equal(checked.masks["vessel"], LEFT & MIDDLE)
    assert list(check(*[Annotation({})] * 2, negatives="allow").masks) == [PHRASE]


def test_what_one_ignores_counts_for_none(check):
    ignoring = Annotation({"vessel": [mask_to_rle(LEFT)]}, ignored=(mask_to_rle(RIGHT),))
    checked = check(label(vessel=LEFT | RIGHT), ignoring)
    np.testing.assert_array_equal(checked.ignored, RIGHT)
    np.testing.assert_array_equal(checked.masks["vessel"], LEFT)
    assert checked.agreement == 1


@pytest.mark.parametrize("annotators", ["majority", "staple"])
def test_where_all_together_ignore_everything_that_is_the_reason(check, annotators):
    halves = [box(0, 0, 20, 20), box(0, 20, 20, 40)]
    drawn = [Annotation({"vessel": [mask_to_rle(LEFT)]}, ignored=(mask_to_rle(half),)) for half in halves]
    assert rejection(check, *drawn, annotators=annotators).code == "nothing_counts"


def test_the_field_of_view_is_that_of_all(check):
    view = box(0, 0, 20, 22)
    checked = check(label(vessel=LEFT | RIGHT), label(vessel=LEFT), field_of_view=view)
    np.testing.assert_array_equal(checked.ignored, ~view)
    assert checked.agreement == 1
    assert rejection(check, *[label(vessel=RIGHT)] * 2, field_of_view=view).code == "field_of_view_objects"


def test_what_is_wrong_says_of_which_annotator(check, tmp_path):
    short = Annotation({"vessel": [np.array([[1.0, 1.0], [2.0, 2.0]])]})
    rejected = rejection(check, label(vessel=LEFT), short)
    assert (rejected.code, rejected.reason[:22]) == ("short_polygon", "Of annotator 2 of 2: 1")
    larger = Annotation({"vessel": [np.array([[10.0, 10.0], [30.0, 10.0], [30.0, 30.0]])]}, size=(40, 80))
    found = check(label(vessel=LEFT), larger, findings=(Finding("cancelled", "one"),)).findings
    assert [each.code for each in found] == ["cancelled", "size_rescaled"]
    assert found[1].detail.startswith("Of annotator 2 of 2: The label was scaled")
    assert rejection(check, *[label(vessel=LEFT)] * 17).code == "many_annotators"
    (tmp_path / "cut_off.png").write_bytes(b"x")
    cut_off = LabelFile(str(tmp_path / "cut_off.png"), partial(read_mask, threshold=None, max_pixels=10**6), PHRASE)
    assert rejection(check, label(vessel=LEFT), cut_off).reason.startswith("Of annotator 2 of 2: Of the mask:")
    assert rejection(check, label(vessel=LEFT), label(**{"x" * 201: LEFT})).code == "long_text"


def test_the_hash_of_a_label_sees_each_annotator(check):
    one = check(label(vessel=LEFT), label(vessel=LEFT), label(vessel=MIDDLE))
    other = check(label(vessel=LEFT), label(vessel=LEFT), label(vessel=RIGHT))
    np.testing.assert_array_equal(one.union, other.union)
    assert content_sha256(one) != content_sha256(other)
