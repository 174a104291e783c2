"""Memory that is watched while something is measured."""

import threading

import psutil
import pytest

from benchmarks.data.measure import watched_memory


def fail_while_watched() -> None:
    with watched_memory([psutil.Process()]):
        raise ZeroDivisionError


def test_an_error_ends_the_watching(ray_cluster):
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        fail_while_watched()
    assert set(threading.enumerate()) <= before
