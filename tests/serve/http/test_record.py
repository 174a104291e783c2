"""What is put on record of a request and of its parts."""

import asyncio
import errno
import json
import os

import pytest
from starlette.requests import Request

from sa2va_ray.serve.guard.access import Access, new_key
from sa2va_ray.serve.guard.audit import verify
from sa2va_ray.serve.guard.audit_log import AuditLog
from sa2va_ray.serve.http.record import Recorder
from sa2va_ray.serve.metrics import RequestMetrics
from sa2va_ray.serve.problems import Problem


def test_parts_are_recorded_under_the_requests_key_and_do_not_use_up_its_limit(tmp_path):
    key, stored = new_key("clinic", requests_per_minute=1)
    file = tmp_path / "audit.jsonl"
    recorder = Recorder(Access([stored]), RequestMetrics(), AuditLog(file))
    request = Request(
        {"type": "http", "headers": [(b"x-api-key", key.encode())], "client": ("203.0.113.5", 1), "state": {"id": "a1"}}
    )

    async def label_three_images() -> None:
        async with recorder.record(request, "label_studio") as whole:
            for image in (b"1", b"2"):
                async with recorder.record_part(whole, "label_studio_task") as record:
                    record.set_input(image)
            with pytest.raises(Problem):
                async with recorder.record_part(whole, "label_studio_task"):
                    raise Problem(422, "Broken image", "It ends early.", "Send it again.")
        with pytest.raises(Problem) as refused:
            async with recorder.record(request, "label_studio"):
                pass
        assert refused.value.status == 429

    asyncio.run(label_three_images())
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["status"] for record in records] == [200, 200, 422, 200, 429]
    assert [record["key_id"] for record in records] == ["clinic"] * 5
    assert {record["request_id"] for record in records} == {"a1"}
    assert records[0]["input_sha256"] != records[1]["input_sha256"]


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_a_record_there_is_no_reply(tmp_path, monkeypatch):
    recorder = Recorder(Access([]), RequestMetrics(), AuditLog(tmp_path / "audit.jsonl"))
    request = Request({"type": "http", "headers": [], "client": ("127.0.0.1", 1), "state": {"id": "a1"}})

    async def ask() -> None:
        async with recorder.record(request, "segment"):
            pass

    asyncio.run(ask())
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Problem, match="audit log cannot be written") as refused:
        asyncio.run(ask())
    assert refused.value.status == 503
    monkeypatch.undo()
    asyncio.run(ask())
    assert verify(tmp_path / "audit.jsonl").num_records == 2


class Counts(RequestMetrics):
    """Metrics, and what was counted."""

    def __init__(self):
        super().__init__()
        self.ends, self.titles = [], []

    def end(self, route, status):
        super().end(route, status)
        self.ends.append(status)

    def problem(self, title):
        super().problem(title)
        self.titles.append(title)


def test_what_is_counted_is_what_the_caller_got(tmp_path, monkeypatch):
    wrong = Problem(422, "Broken image", "It ends early.", "Send it again.")
    metrics = Counts()
    recorder = Recorder(Access([]), metrics, AuditLog(tmp_path / "audit.jsonl"))
    request = Request({"type": "http", "headers": [], "client": ("127.0.0.1", 1), "state": {"id": "a1"}})

    async def ask(error: Exception | None = None) -> int:
        try:
            async with recorder.record(request, "segment"):
                if error:
                    raise error
        except Problem as problem:
            return problem.status
        return 200

    statuses = [asyncio.run(ask(error)) for error in (None, wrong, RuntimeError())]
    monkeypatch.setattr(os, "write", full)
    statuses += [asyncio.run(ask(error)) for error in (None, wrong)]
    assert metrics.ends == statuses == [200, 422, 500, 503, 503]
    assert metrics.titles == ["Broken image", "Server error", "Not ready", "Not ready"]


def test_a_request_that_is_let_in_nowhere_is_on_record(tmp_path):
    recorder = Recorder(Access([]), RequestMetrics(), AuditLog(tmp_path / "audit.jsonl"))
    scope = {"type": "http", "method": "GET", "headers": [(b"host", b"evil.example")], "client": ("127.0.0.1", 1)}
    with pytest.raises(Problem):
        asyncio.run(recorder.check_open(Request({**scope, "state": {"id": "a1"}})))
    (record,) = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
    assert (record["status"], record["request_id"]) == (403, "a1")


def test_a_caller_who_leaves_is_on_record(tmp_path):
    recorder = Recorder(Access([]), RequestMetrics(), AuditLog(tmp_path / "audit.jsonl"))
    request = Request({"type": "http", "headers": [], "client": ("127.0.0.1", 1), "state": {"id": "a1"}})

    async def ask(begun: asyncio.Event) -> None:
        async with recorder.record(request, "segment") as record:
            record.set_input(b"image")
            begun.set()
            await asyncio.sleep(60)

    async def leave() -> None:
        asking = asyncio.create_task(ask(begun := asyncio.Event()))
        await begun.wait()
        for _ in range(3):  # as a cancelled scope of anyio does, at whatever is awaited next
            asking.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(leave())
    recorder._audit_thread.shutdown()
    (record,) = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
    assert (record["status"], record["input_sha256"] is None) == (499, False)
