"""What is put on record of a request and of its parts."""

import asyncio
import json

import pytest
from starlette.requests import Request

from sa2va_ray.serve.access import Access, new_key
from sa2va_ray.serve.audit import AuditLog
from sa2va_ray.serve.exchange import Recorder
from sa2va_ray.serve.metrics import RequestMetrics
from sa2va_ray.serve.problems import Problem


def test_parts_are_recorded_under_the_requests_key_and_do_not_use_up_its_limit(tmp_path):
    key, stored = new_key("clinic", ["predict"], requests_per_minute=1)
    file = tmp_path / "audit.jsonl"
    recorder = Recorder(Access([stored]), RequestMetrics(), AuditLog(file))
    request = Request(
        {"type": "http", "headers": [(b"x-api-key", key.encode())], "client": ("203.0.113.5", 1), "state": {"id": "a1"}}
    )

    async def label_three_images() -> None:
        async with recorder.exchange(request, "label_studio", "predict") as whole:
            for image in (b"1", b"2"):
                async with recorder.part(whole, "label_studio_task") as exchange:
                    exchange.brought(image)
            with pytest.raises(Problem):
                async with recorder.part(whole, "label_studio_task"):
                    raise Problem(422, "Broken image", "It ends early.", "Send it again.")
        with pytest.raises(Problem) as refused:
            async with recorder.exchange(request, "label_studio", "predict"):
                pass
        assert refused.value.status == 429

    asyncio.run(label_three_images())
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["status"] for record in records] == [200, 200, 422, 200, 429]
    assert [record["key_id"] for record in records[:4]] == ["clinic"] * 4
    assert {record["request_id"] for record in records} == {"a1"}
    assert records[0]["input_sha256"] != records[1]["input_sha256"]
