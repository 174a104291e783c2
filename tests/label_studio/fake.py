"""A server that answers as Label Studio 1.23 does, as far as this package asks it, in a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJ0IjoicmVmcmVzaCJ9.c2lnbmF0dXJl"
INTERFACE = (
    '<View><Image name="img" value="$photo"/>'
    '<BrushLabels name="brush" toName="img"><Label value="vessel"/></BrushLabels></View>'
)


class FakeLabelStudio:
    """Attributes:
    url: its address.
    asked: path and query of each request.
    tasks: of project 7; what is imported is added.
    uploads: names of files that were uploaded.
    files: path -> bytes, or the address that it redirects to.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.interface = INTERFACE
        self.tasks: list[dict[str, Any]] = []
        self.uploads: list[str] = []
        self.files: dict[str, bytes | str] = {}
        self.legacy_is_off = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        if request.path == "/api/token/refresh":
            known = (await request.json()) == {"refresh": PERSONAL}
            return web.json_response({"access": "good"} if known else {"detail": "no"}, status=200 if known else 401)
        if refused := self._refused(request.headers.get("Authorization", "")):
            return web.json_response({"detail": refused}, status=401)
        if request.path == "/api/projects/7":
            return web.json_response({"id": 7, "label_config": self.interface})
        if request.path == "/api/tasks" and request.query["project"] == "7":
            page, size = int(request.query["page"]), int(request.query["page_size"])
            part = self.tasks[(page - 1) * size : page * size]
            return web.json_response({"total": len(self.tasks), "tasks": part})
        if request.method == "POST" and request.path.startswith("/api/projects/7/import"):
            return await self._import(request)
        if request.path.startswith("/api/import/file-upload/"):
            return web.json_response({"file": f"upload/7/{self.uploads[int(request.path.rpartition('/')[2])]}"})
        found = self.files.get(request.path_qs)
        if isinstance(found, str):
            return web.Response(status=303, headers={"Location": found})
        return web.Response(body=found) if found is not None else web.json_response({"detail": "Not found"}, status=404)

    async def _import(self, request: web.Request) -> web.Response:
        if request.content_type == "multipart/form-data":
            file = (await request.post())["file"]
            assert isinstance(file, web.FileField)
            self.uploads.append(f"1a2b3c4d-{file.filename}")
            return web.json_response({"task_count": 1, "file_upload_ids": [len(self.uploads) - 1]}, status=201)
        sent = await request.json()
        if request.path.endswith("/predictions"):
            for each in sent:
                (task,) = [task for task in self.tasks if task["id"] == each["task"]]
                task["predictions"].append(each)
            return web.json_response({"created": len(sent)}, status=201)
        first = 1 + max((task["id"] for task in self.tasks), default=0)
        self.tasks += [{"id": first + place, "annotations": [], **task} for place, task in enumerate(sent)]
        return web.json_response({"task_ids": [first + place for place in range(len(sent))]}, status=201)

    def _refused(self, authorization: str) -> str:
        self.tokens.append(authorization)
        if authorization == f"Token {LEGACY}" and self.legacy_is_off:
            return "Authentication token no longer valid: legacy token authentication has been disabled"
        return "" if authorization in (f"Token {LEGACY}", "Bearer good") else "Invalid token."


@contextmanager
def running() -> Iterator[FakeLabelStudio]:
    """A server on a free port of this machine."""
    fake, loop, ready = FakeLabelStudio(), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", fake.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        return runner

    def work() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(10)
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLabelStudio]:
    """A server that takes the legacy token in LABEL_STUDIO_TOKEN."""
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", LEGACY)
    with running() as server:
        yield server
