"""Bodies that arrive slowly, or never."""

import asyncio
import json

import pytest
from starlette.requests import Request

from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.guard.fetch import UriPolicy
from sa2va_ray.serve.http.image_workers import ImageWorkers
from sa2va_ray.serve.http.read.body import BodyReader
from sa2va_ray.serve.problems import Problem

BODY = json.dumps({"a": "b"}).encode()


def request_of(receive) -> Request:
    headers = {"content-length": str(len(BODY)), "content-type": "application/json"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


def whole() -> Request:
    async def receive():
        return {"type": "http.request", "body": BODY, "more_body": False}

    return request_of(receive)


def half_sent() -> Request:
    pieces: asyncio.Queue = asyncio.Queue()
    pieces.put_nowait({"type": "http.request", "body": BODY[:3], "more_body": True})

    async def receive():
        return await pieces.get()

    return request_of(receive)


async def outcome(reader: BodyReader, request: Request) -> int:
    try:
        assert await reader.json_object(request) == {"a": "b"}
    except Problem as problem:
        return problem.status
    return 200


def reader(**limits) -> BodyReader:
    return BodyReader(LimitsConfig(**limits), UriPolicy(), ImageWorkers(LimitsConfig()))


def test_half_sent_bodies_hold_nobody_up_however_many():
    async def attack() -> tuple[list[int], int, int]:
        bodies = reader(max_bodies_at_once=8, read_timeout_s=30)
        attackers = [asyncio.create_task(outcome(bodies, half_sent())) for _ in range(400)]
        await asyncio.sleep(0)  # all of them have begun
        async with asyncio.timeout(5):
            found = [await outcome(bodies, whole()) for _ in range(20)]
            await asyncio.wait(attackers[:393])
        done = [task.result() for task in attackers if task.done()]
        for task in attackers:
            task.cancel()
        return found, done.count(503), len(attackers) - len(done)

    assert asyncio.run(attack()) == ([200] * 20, 393, 7)


def test_the_time_for_a_body():
    async def wait() -> list[int]:
        bodies = reader(max_bodies_at_once=8, read_timeout_s=0.05)
        return await asyncio.gather(*(outcome(bodies, half_sent()) for _ in range(8)))

    assert asyncio.run(wait()) == [408] * 8


def test_turns_that_end_at_the_same_moment_are_each_told_why():
    """The oldest gives way while its own time is up."""

    async def wait() -> list[int]:
        bodies = reader(max_bodies_at_once=1, read_timeout_s=0.05)
        first = asyncio.create_task(outcome(bodies, half_sent()))
        await asyncio.sleep(0.05)
        return [await outcome(bodies, whole()), await first]

    found = asyncio.run(wait())
    assert found[0] == 200
    assert found[1] in (408, 503)


def test_those_who_are_done_or_gone_leave_their_place():
    async def use() -> list[int]:
        bodies = reader(max_bodies_at_once=2, read_timeout_s=30)
        staying = asyncio.create_task(outcome(bodies, half_sent()))
        await asyncio.sleep(0)
        found = [await outcome(bodies, whole()) for _ in range(5)]
        gone = asyncio.create_task(outcome(bodies, half_sent()))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        found.append(await outcome(bodies, whole()))
        assert not staying.done()
        staying.cancel()
        return found

    assert asyncio.run(use()) == [200] * 6


@pytest.mark.parametrize("length", ["", "x", "-1", "1.0", "²", "9" * 5000])
def test_a_length_that_is_no_number(length):
    request = whole()
    raw = [(name, value) for name, value in request.scope["headers"] if name != b"content-length"]
    request = Request({**request.scope, "headers": [*raw, (b"content-length", length.encode("latin-1"))]})
    assert asyncio.run(outcome(reader(), request)) == 411
