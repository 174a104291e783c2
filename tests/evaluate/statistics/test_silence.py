"""When a model counts as silent, and what is told of it."""

from sa2va_ray.evaluate.report.wording import describe_silences
from sa2va_ray.evaluate.statistics.silence import silence

DRAWN = {"failure": "", "is_empty": False}
EMPTY = {"failure": "", "is_empty": True}
NO_SEG = {"failure": "no_seg", "is_empty": True}
UNREADABLE = {"failure": "image_unreadable", "is_empty": True}


def rows(*answers, phrase="vessels", is_negative=False):
    return [{"phrase": phrase, "is_negative": is_negative, **each} for each in answers]


def result(found, **values):
    return {"model": {"name": "quiet", "threshold": 0.5}, "silence": silence(found), **values}


def test_a_model_that_finds_half_of_what_is_there_is_not_silent():
    assert silence(rows(DRAWN, DRAWN, NO_SEG, EMPTY)) == []
    (found,) = silence(rows(DRAWN, EMPTY, NO_SEG))
    assert found == {"phrase": "vessels", "num_objects": 3, "num_no_seg": 1, "num_empty": 1}


def test_what_is_not_there_and_what_cannot_be_read_do_not_count():
    seen = rows(DRAWN)
    assert silence(seen + rows(*[EMPTY] * 9, is_negative=True)) == []
    assert silence(seen + rows(*[UNREADABLE] * 9)) == []
    (found,) = silence(rows(EMPTY, DRAWN, EMPTY) + rows(*[DRAWN] * 9, is_negative=True))
    assert (found["num_objects"], found["num_empty"]) == (3, 2)
    (found,) = silence(rows(EMPTY, EMPTY) + rows(*[UNREADABLE] * 9))
    assert (found["num_objects"], found["num_empty"]) == (2, 2)
    assert silence(rows(UNREADABLE)) == []


def test_each_phrase_is_looked_at_by_itself():
    (found,) = silence(rows(*[DRAWN] * 9, phrase="artery") + rows(NO_SEG, phrase="vein"))
    assert found["phrase"] == "vein"


def test_it_tells_the_numbers_the_cause_and_the_cure():
    (told,) = describe_silences(result(rows(NO_SEG, NO_SEG, DRAWN)))
    assert "quiet is SILENT: it found nothing on 2 of the 3 image(s) that have 'vessels'." in told
    assert "2 answer(s) had no [SEG]" in told
    assert "threshold" not in told
    (told,) = describe_silences(result(rows(EMPTY)))
    assert "1 mask(s) were empty: no probability was above the threshold 0.5" in told
    assert "jobs.calibrate" in told
    assert "[SEG]" not in told


def test_the_model_that_is_compared_with_is_looked_at_too():
    other = {"model": {"name": "other", "threshold": 0.5}, "silence": silence(rows(EMPTY))}
    (told,) = describe_silences(result(rows(DRAWN), against=other))
    assert told.startswith("other is SILENT")
    assert describe_silences(result(rows(DRAWN))) == []


def test_of_two_models_of_one_name_it_says_which():
    other = {"model": {"name": "quiet", "threshold": 0.5, "sha256": "b" * 64}, "silence": silence(rows(EMPTY))}
    one = result(rows(DRAWN), against=other)
    one["model"]["sha256"] = "a" * 64
    (told,) = describe_silences(one)
    assert told.startswith("quiet bbbbbb is SILENT")
