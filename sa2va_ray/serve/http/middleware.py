"""What holds for every request, whatever its route: access, the request id, headers, problems, HEAD."""

import uuid
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from sa2va_ray.serve.http.endpoint import endpoint_of
from sa2va_ray.serve.problems import Problem, as_problem

_REQUEST_ID = "Sa2va-Request-ID"  # Serve puts an X-Request-ID of its own, or the caller's, on each reply
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


def add_middleware(api: FastAPI) -> None:
    """Adds what this module has to an application whose routes are there."""
    api.add_middleware(HeadAsGet)
    api.middleware("http")(_finish)
    api.exception_handler(Problem)(_reply_with_problem)
    api.exception_handler(HTTPException)(_reply_unknown)


class HeadAsGet:
    """ASGI middleware: HEAD is answered as GET. The server leaves out the body."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        await self._app({**scope, "method": "GET"} if is_head else scope, receive, send)


async def _finish(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Gives the request an id, and each reply the id and the headers."""
    request.state.id = uuid.uuid4().hex
    response = await _respond(request, call_next)
    for name, value in {**_HEADERS, _REQUEST_ID: request.state.id}.items():
        response.headers.setdefault(name, value)
    return response


async def _respond(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    try:
        endpoint = await endpoint_of(request)
        await endpoint.recorder.check_open(request)
        return await call_next(request)
    except Exception as error:
        return as_problem(error, request.state.id).response(request.state.id)


async def _reply_with_problem(request: Request, problem: Problem) -> Response:
    return problem.response(request.state.id)


async def _reply_unknown(request: Request, error: HTTPException) -> Response:
    """What FastAPI itself refuses: unknown routes and methods."""
    problem = Problem(
        error.status_code,
        str(error.detail),
        "This route does not exist, or not with this method.",
        "/openapi.json lists the routes.",
    )
    response = problem.response(request.state.id)
    response.headers.update(error.headers or {})
    return response
