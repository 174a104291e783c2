"""What is no time to a second replica is not told as one."""

import asyncio

import aiohttp
import pytest

from benchmarks.serve import scaling
from sa2va_ray.demo.stack import free_port


def load_until_two(url: str) -> float:
    return asyncio.run(scaling._load_until_two(url, [b"image"], clients=2))


def test_a_load_that_dies_is_no_result(monkeypatch):
    monkeypatch.setattr(scaling, "num_running", lambda: 1)
    with pytest.raises(aiohttp.ClientConnectorError):
        load_until_two(f"http://127.0.0.1:{free_port(preferred=8100)}")


def test_a_load_under_which_no_second_replica_comes_is_no_result(monkeypatch):
    monkeypatch.setattr(scaling, "num_running", lambda: 1)
    monkeypatch.setattr(scaling, "SCALING_LIMIT_S", 0)
    with pytest.raises(RuntimeError, match="no second replica"):
        load_until_two("http://127.0.0.1:9")


def test_it_begins_with_one_replica(monkeypatch):
    counts = [2, 2, 1]
    monkeypatch.setattr(scaling, "num_running", lambda: counts.pop(0))
    scaling._wait_for_one()
    assert counts == []
    monkeypatch.setattr(scaling, "num_running", lambda: 2)
    monkeypatch.setattr(scaling, "SCALING_LIMIT_S", 0)
    with pytest.raises(RuntimeError, match="2 replicas run"):
        scaling._wait_for_one()
