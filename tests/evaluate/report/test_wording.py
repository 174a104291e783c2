"""What a report says of scores that are easily misread."""

import pytest

from sa2va_ray.evaluate.report.wording import describe_one_mask

PHRASES = [{"phrase": "artery"}, {"phrase": "vein"}]
FILTER, LARGE = {"name": "sieve", "kind": "vessel_filter"}, {"name": "large", "kind": "sa2va"}


@pytest.mark.parametrize(
    ("result", "begin"),
    [
        ({"model": FILTER, "by_phrase": PHRASES}, "sieve: a baseline"),
        ({"model": LARGE, "against": {"model": FILTER}, "by_phrase": PHRASES}, "sieve: a baseline"),
        ({"model": FILTER, "by_phrase": []}, ""),
        ({"model": LARGE, "by_phrase": PHRASES}, ""),
    ],
)
def test_a_model_without_language_is_told_where_there_are_several_phrases(result, begin):
    told = describe_one_mask(result)
    assert told.startswith(begin)
    assert bool(told) == bool(begin)
