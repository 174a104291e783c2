"""That no sign of life comes stands on the page of a run that went on, and on no other."""

import pytest

from sa2va_ray.train.watch.page.run_page import render_run_page
from sa2va_ray.train.watch.page.silence import say_silence
from sa2va_ray.train.watch.page.state import RunState
from tests.train.watch.page.test_run_page import facts

NOON_S = 1_795_953_600  # 2026-11-29 12:00:00 UTC


@pytest.mark.parametrize("state", RunState)
def test_only_a_run_that_went_on_is_said_to_be_silent(state):
    page = render_run_page(facts(state), [], [])
    told = say_silence(page, NOON_S, NOON_S + 4 * 60 + 10).decode()
    assert ("No sign of life</strong> since 2026-11-29 12:00:00 UTC, for 4 minutes by this machine" in told) == (
        state.goes_on
    )
    assert state.goes_on or told == page.decode()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-9, "0 minutes"), (3599, "59 minutes"), (3660, "1 hours and 1 minutes"), (2e5, "2 days and 7 hours")],
)
def test_spans_are_told_in_words(seconds, words):
    page = render_run_page(facts(RunState.TRAINING), [], [])
    assert f"for {words} by" in say_silence(page, NOON_S, NOON_S + seconds).decode()


def test_without_a_lock_no_moment_is_named():
    page = render_run_page(facts(RunState.WAITING), [], [])
    assert "<strong>No sign of life</strong>. The job" in say_silence(page, None, NOON_S).decode()
