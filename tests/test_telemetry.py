"""Progress in the log: not too many lines, and no long silence."""

import logging
import time

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


@pytest.mark.parametrize(("total", "num_lines"), [(1, 1), (20, 20), (21, 11), (1000, 20)])
def test_twenty_lines_the_last_at_the_end(seen, total, num_lines):
    with Progress("work", total) as progress:
        for _ in range(total):
            progress.step("")
    assert len(seen()) == num_lines
    assert seen()[-1] == (total, total)


def test_a_silence_is_broken(seen, monkeypatch):
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
