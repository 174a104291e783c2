import asyncio
import re
from unittest.mock import Mock

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from sa2va_ray.serve.guard.access import Access
from sa2va_ray.serve.http.middleware import add_middleware
from sa2va_ray.serve.http.record import Recorder
from sa2va_ray.serve.problems import Problem


@pytest.fixture
def api() -> FastAPI:
    api = FastAPI()
    api.state.endpoint = Mock(recorder=Recorder(Access([]), metrics=Mock(), audit=None))

    @api.get("/id")
    async def tell_id(request: Request) -> str:
        return request.state.id

    @api.get("/problem")
    async def refuse() -> None:
        raise Problem(503, "Too busy", "", "", retry_after_s=7)

    @api.get("/fault")
    async def fail() -> None:
        raise ZeroDivisionError("secret")

    @api.get("/cut_off")
    async def fail_later() -> StreamingResponse:
        async def lines():
            yield b"first"
            raise ZeroDivisionError

        return StreamingResponse(lines())

    add_middleware(api)
    return api


def ask(api: FastAPI, path: str, method: str = "GET", client: str = "127.0.0.1") -> httpx.Response:
    async def sent() -> httpx.Response:
        transport = httpx.ASGITransport(api, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, path)

    return asyncio.run(sent())


def test_each_reply_has_the_id_of_its_request_and_the_headers(api):
    first, second = ask(api, "/id"), ask(api, "/id", "HEAD")
    assert first.status_code == second.status_code == 200
    assert first.json() == first.headers["Sa2va-Request-ID"] != second.headers["Sa2va-Request-ID"]
    for reply in (first, second, ask(api, "/problem"), ask(api, "/fault"), ask(api, "/none")):
        assert re.fullmatch("[0-9a-f]{32}", reply.headers["Sa2va-Request-ID"])
        assert (reply.headers["Cache-Control"], reply.headers["X-Content-Type-Options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize(
    ("path", "method", "client", "status"),
    [
        ("/problem", "GET", "127.0.0.1", 503),
        ("/fault", "GET", "127.0.0.1", 500),
        ("/none", "GET", "127.0.0.1", 404),
        ("/id", "POST", "127.0.0.1", 405),
        ("/id", "GET", "192.0.2.7", 403),
    ],
)
def test_what_cannot_be_served_gets_a_problem_document(api, path, method, client, status):
    reply = ask(api, path, method, client)
    assert reply.status_code == reply.json()["status"] == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["request_id"] == reply.headers["Sa2va-Request-ID"]
    assert "secret" not in reply.text
    assert reply.headers.get("Retry-After") == ("7" if status == 503 else None)


def test_a_reply_that_has_begun_is_cut_off_and_gets_no_second_head(api):
    with pytest.raises(ZeroDivisionError):
        ask(api, "/cut_off")
