"""Patterns that come to an end, whatever they are held against."""

import re
import time

import pytest

from sa2va_ray import patterns
from sa2va_ray.config import UserError
from sa2va_ray.patterns import PathPattern

NAME = "a_" * 120


def test_the_groups_that_took_part_have_a_text():
    pattern = PathPattern(r"(?P<patient>\d+)(_(?P<run>\d+))?\.png", "patient_pattern")
    assert pattern.groups == {"patient", "run"}
    assert pattern.match("7.png") == {"patient": "7"}
    assert pattern.match("7_1.png") == {"patient": "7", "run": "1"}
    assert pattern.match("7.png.gif") is None
    assert PathPattern("a", "source").match("a") == {}


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("p{e<=1}", "p"),
        ("p{e<=1}", "p{e<=1}"),
        (r"p\{d}", "p{d}"),
        ("p{d}", "p{d}"),
        ("[{d}]", "{"),
        ("p{2}x{,1}", "ppx"),
        ("p{1,}", "ppp"),
        (r"\N{DIGIT ONE}", "1"),
        ("p{}", "p{}"),
        ("(?P<p>.){s}", "p"),
    ],
)
def test_braces_mean_what_they_mean_to_re(expression, path):
    expected = re.fullmatch(expression, path)
    assert PathPattern(expression, "patient_pattern").match(path) == (expected and expected.groupdict())


def test_a_pattern_of_too_many_ways_ends_in_an_error_without_the_path(monkeypatch):
    monkeypatch.setattr(patterns, "_MAX_S", 0.2)
    ways = PathPattern("".join(f"(?P<p{number}>[^/]+?)_" for number in range(12)) + r"x?[.]png", "label_pattern")
    began = time.process_time()
    with pytest.raises(UserError, match=r"`label_pattern` did not come to an end.* path of 245 signs") as error:
        ways.match(f"{NAME}/.png")
    assert time.process_time() - began < 2
    assert NAME not in str(error.value)


def test_many_slow_paths_end_in_an_error_and_many_quick_ones_do_not(monkeypatch):
    """Each of them ends within the bound of one path."""
    monkeypatch.setattr(patterns, "_SLOW_S", 0.005)
    monkeypatch.setattr(patterns, "_MAX_SLOW_S", 0.1)
    ways = PathPattern("[^/]+?_" * 4 + "x", "patient_pattern")
    assert [ways.match("a_b") for _ in range(10_000)] == [None] * 10_000
    with pytest.raises(UserError, match=r"`patient_pattern` took 0 s for paths .* the last one of 160 signs") as error:
        [ways.match(NAME[:160]) for _ in range(1000)]
    assert NAME[:160] not in str(error.value)


@pytest.mark.parametrize("wrong", ["(", "a{4294967296}", "(" * 6000 + ")" * 6000])
def test_what_is_no_expression_is_told_as_that(wrong):
    with pytest.raises(ValueError, match="is no regular expression"):
        PathPattern(wrong, "patient_pattern")
