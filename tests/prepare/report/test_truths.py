"""Truths of several kinds are told."""

from sa2va_ray.prepare.report.truths import explain_truths


def rows(*numbers):
    return [{"annotators": [{"annotator": str(who)} for who in range(number)] or None} for number in numbers]


def test_the_label_of_one_beside_the_overlap_of_two_is_told_by_split():
    (told,) = explain_truths({"train": rows(0, 0, 0), "val": rows(), "test": rows(2, 2, 0)}, "majority")
    assert "two kinds: 4 of one annotator (train 3, test 1); 2 of 2 annotators (test 2)." in told
    assert "annotators=majority, which of two is only what both drew." in told
    assert "annotators=refuse" in told
    (told,) = explain_truths({"train": rows(0, 3)}, "staple")
    assert "of two" not in told.split("consensus")[1]


def test_truths_of_one_kind_are_not():
    assert explain_truths({"train": rows(0, 0), "test": rows(0)}, "refuse") == []
    assert explain_truths({"train": rows(2, 3), "test": rows(2)}, "majority") == []
    assert explain_truths({"train": []}, "majority") == []
