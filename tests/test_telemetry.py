"""Progress in the log: not too many lines, and no long silence."""

import logging
import time
from types import SimpleNamespace

import pytest

from sa2va_ray import telemetry
from sa2va_ray.telemetry import LOGGER, Progress, parse_progress


@pytest.fixture
def seen(caplog, monkeypatch):
    """(done, total) of the lines of "work" so far."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)

    def read():
        found = [parse_progress(record.getMessage()) for record in caplog.records]
        return [each[1:] for each in found if each and each[0] == "work"]

    return read


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as a list of one number that a test sets."""
    now = [0.0]
    monkeypatch.setattr(telemetry, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize(("total", "num_lines"), [(1, 1), (20, 20), (21, 11), (1000, 20)])
def test_twenty_lines_the_last_at_the_end(seen, clock, total, num_lines):
    with Progress("work", total) as progress:
        for _ in range(total):
            clock[0] += 30 / total
            progress.step("")
    assert len(seen()) == num_lines
    assert seen()[-1] == (total, total)


def test_what_is_done_within_a_second_is_a_line(seen, clock):
    """Sixteen images, four of them in a second, but for the last eight, which are done at once."""
    with Progress("work", 16) as progress:
        for done in range(1, 17):
            clock[0] += 0.25 if done <= 8 else 0
            progress.at(done)
    assert seen() == [(4, 16), (8, 16), (16, 16)]


def test_what_was_held_back_follows_and_an_end_before_all_is_done_is_told(seen, monkeypatch):
    monkeypatch.setattr(telemetry, "_SHORTEST_PAUSE_S", 0.05)
    with Progress("work", 10) as progress:
        progress.at(3)
        _wait_for(lambda: seen() == [(3, 10)])
        monkeypatch.setattr(telemetry, "_SHORTEST_PAUSE_S", 60.0)
        progress.at(4)
        assert seen() == [(3, 10)]
    assert seen() == [(3, 10), (4, 10)]


def test_a_silence_is_broken(seen, monkeypatch):
    monkeypatch.setattr(telemetry, "_SHORTEST_PAUSE_S", 0.02)
    monkeypatch.setattr(telemetry, "_LONGEST_SILENCE_S", 0.05)
    with Progress("work", 10) as progress:
        _wait_for(lambda: len(seen()) >= 2)
        progress.at(1)
        _wait_for(lambda: (1, 10) in seen())
    assert seen()[0] == (0, 10)
    num_lines = len(seen())
    time.sleep(0.2)
    assert len(seen()) == num_lines


def _wait_for(is_so):
    deadline_s = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
