"""What holds for every request, whatever its route: access, the request id, headers, problems, HEAD."""

import uuid

from fastapi import FastAPI, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sa2va_ray.serve.http.endpoint import endpoint_of
from sa2va_ray.serve.problems import Problem, as_problem

_REQUEST_ID = "Sa2va-Request-ID"  # Serve puts an X-Request-ID of its own, or the caller's, on each reply
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


def add_middleware(api: FastAPI) -> None:
    """Adds what this module has to an application whose routes are there."""
    api.add_middleware(HeadAsGet)
    api.add_middleware(EveryRequest)
    api.exception_handler(Problem)(_reply_with_problem)
    api.exception_handler(HTTPException)(_reply_unknown)


class HeadAsGet:
    """ASGI middleware: HEAD is answered as GET. The server leaves out the body."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        await self._app({**scope, "method": "GET"} if is_head else scope, receive, send)


class EveryRequest:
    """ASGI middleware: checks access, gives the request an id, and each reply the id and the headers."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = Request(scope)
        request.state.id = uuid.uuid4().hex
        is_answered = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, _REQUEST_ID: request.state.id}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            endpoint = await endpoint_of(request)
            await endpoint.recorder.check_open(request)
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if is_answered:
                raise
            response = as_problem(error, request.state.id).response(request.state.id)
            await response(scope, receive, send_with_headers)


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
