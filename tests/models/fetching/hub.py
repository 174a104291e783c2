"""A stand-in for the Hugging Face hub: one model, as the library asks for it."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "c" * 40
LARGE = (".safetensors", ".pt")


class Hub:
    """Attributes:
    files: name -> content of the model `own/guide`.
    downloads: names in the order in which they were sent.
    """

    def __init__(self, files: dict[str, bytes]):
        self.files, self.downloads = files, []  # type: ignore[var-annotated]
        self.corrupted: set[str] = set()

    def siblings(self) -> list[dict[str, Any]]:
        return [self._sibling(name, content) for name, content in self.files.items()]

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        found: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _blob_id(content)}
        if name.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        return found


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The hub's address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            marker = f"/own/guide/resolve/{COMMIT}/"
            if path.startswith("/api/models/own/guide"):
                model = {"id": "own/guide", "sha": COMMIT, "siblings": hub.siblings()}
                self._send(200, json.dumps(model).encode(), {}, with_body)
            elif path.startswith(marker) and (name := path.removeprefix(marker)) in hub.files:
                content = hub.files[name]
                etag = hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else _blob_id(content)
                if with_body:
                    hub.downloads.append(name)
                sent = bytes(len(content)) if name in hub.corrupted else content
                self._send(200, sent, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, with_body)
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)

        def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
