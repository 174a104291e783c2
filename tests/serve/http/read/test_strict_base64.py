"""Base64 in pieces is what it is as a whole, and a large one leaves the event loop to others."""

import asyncio
import base64
import os
import threading

import pytest

from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.http.image_workers import ImageWorkers
from sa2va_ray.serve.http.read.strict_base64 import SMALL, decode_strict_base64


@pytest.mark.parametrize("size", [0, 1, 2, 3, 3 * 2**16 - 1, 3 * 2**16, 3 * 2**16 + 1, 10**6])
def test_pieces_make_the_whole(size):
    data = os.urandom(size)
    text = base64.b64encode(data)
    assert decode_strict_base64(text) == decode_strict_base64(text.decode()) == data


@pytest.mark.parametrize("wrong", ["QQ", "Q===", "QQ==QQ==", "QQ==\n", "QU I=", "Q\u00e9==", "QQ-_", "A" * 2**18 + "Q"])
def test_what_is_none_is_refused(wrong):
    with pytest.raises(ValueError):  # noqa: PT011
        decode_strict_base64(wrong)
    in_the_middle = base64.b64encode(b"x" * (3 * 2**16 - 1)).decode() + base64.b64encode(b"y").decode()
    with pytest.raises(ValueError, match="before the end"):
        decode_strict_base64(in_the_middle)


def test_what_is_large_is_worked_on_in_a_thread():
    async def run(data: bytes) -> bool:
        return await ImageWorkers(LimitsConfig()).run_on(lambda _: threading.current_thread(), data) is loop_thread

    loop_thread = threading.current_thread()
    assert asyncio.run(run(b"x" * SMALL))
    assert not asyncio.run(run(b"x" * (SMALL + 1)))
