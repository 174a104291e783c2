"""Multipart forms, whole and cut off."""

import asyncio

import pytest
from starlette.requests import Request

from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.http.read.form import read_form
from sa2va_ray.serve.problems import Problem

BODY = (
    b'--b1\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nPNG\r\n'
    b'--b1\r\nContent-Disposition: form-data; name="threshold"\r\n\r\n0.9\r\n--b1--\r\n'
)


def read(body: bytes):
    chunks = [body[start : start + 7] for start in range(0, len(body), 7)]

    async def receive():
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    headers = [(b"content-type", b"multipart/form-data; boundary=b1")]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    return asyncio.run(read_form(request, LimitsConfig()))


def test_a_whole_form():
    assert read(BODY) == ([b"PNG"], [("threshold", "0.9")])
    assert read(BODY + b"what follows the end") == ([b"PNG"], [("threshold", "0.9")])


@pytest.mark.parametrize("length", range(1, len(BODY) - 3))
def test_a_form_that_is_cut_off_is_never_taken_for_a_whole_one(length):
    with pytest.raises(Problem) as refused:
        read(BODY[:length])
    assert refused.value.status in (400, 422)
    if length > BODY.index(b"0.9") + 3:
        assert refused.value.title == "Cut off"
