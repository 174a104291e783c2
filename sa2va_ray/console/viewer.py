"""A result in the browser: `sa2va-ray open`. Files are read from their store at each request, so that the page of a run
that goes on shows its newest state."""

import mimetypes
import secrets
import sys
import time
import webbrowser
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.pictures.pages import render_page
from sa2va_ray.train.checkpoints.beat import BeatWatch
from sa2va_ray.train.watch.page.silence import PLACE, say_silence

_RUN_PAGE = "run.html"
_PAGES = (_RUN_PAGE, "report.html", "validation/report.html", "calibration.html", "contact_sheet.png")
"""What is shown of a folder, the first that is there."""
_LARGEST_BYTES = 512 * 2**20
_MOST_LISTED = 2000
"""Pictures of a folder, and other files."""
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""What a browser draws."""
_FIRST_FOLDERS = ("panels", "overlays")
"""Of predictions: they show image and mask together."""
_TEMPLATE = Path(__file__).with_name("files.html.jinja")


def show(uri: str, port: int = 0) -> None:
    """Serves a file, or a folder with a page in it, to this machine's browser until it is interrupted.

    Args:
        uri: a path or `s3://...`.
        port: of 127.0.0.1; 0 for a free one.

    Raises:
        UserError: there is nothing at `uri`, the store does not answer, or the port is taken.
    """
    folder, page = find_page(uri)
    server = start_server(folder, port)
    address = f"{server.base_url}/{quote(page)}"
    print(f"{storage.join(folder, page)}\n  {address}\n  until Ctrl-C", file=sys.stderr)
    if sys.stdin.isatty():
        webbrowser.open(address)
    with server:
        server.serve_forever()


def find_page(uri: str) -> tuple[str, str]:
    """(folder, name of what is shown of it); the name is empty where the folder's files are listed.

    Raises:
        UserError: there is nothing at `uri`.
    """
    storage.resolve(uri)
    uri = storage.absolute(uri).rstrip("/")
    for page in _PAGES:
        if storage.exists(storage.join(uri, page)):
            return uri, page
    if storage.list_files(uri):
        return uri, ""
    try:
        storage.size_bytes(uri)
    except FileNotFoundError:
        raise UserError(
            f"There is nothing at {uri}. A job's last line, `result: ...`, has the address of what it made."
        ) from None
    folder, _, name = uri.rpartition("/")
    return folder, name


class ViewerServer(ThreadingHTTPServer):
    """Serves the files below a folder. Other users of the machine cannot guess its address, which begins with a
    secret: reports show patients' images."""

    daemon_threads = True

    def __init__(self, folder: str, port: int):
        self.folder = folder
        self.secret = secrets.token_urlsafe(16)
        self._watches: dict[str, BeatWatch] = {}
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.secret}"

    def watch(self, run_uri: str) -> BeatWatch:
        """What looks at a run for signs of life from the first request for its page on."""
        if run_uri not in self._watches:
            self._watches[run_uri] = BeatWatch(run_uri)
        return self._watches[run_uri]


def start_server(folder: str, port: int) -> ViewerServer:
    """Raises `UserError` where the port is taken."""
    try:
        return ViewerServer(folder, port)
    except OSError as error:
        raise UserError(f"Port {port} cannot be used ({error.strerror}): give another --port, or none.") from None


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer

    def do_GET(self) -> None:
        _, secret, *parts = unquote(self.path.partition("?")[0]).split("/")
        name = "/".join(parts)
        if not secrets.compare_digest(secret.encode(), self.server.secret.encode()) or ".." in parts:
            return self._refuse(HTTPStatus.NOT_FOUND, "This address shows nothing: the whole address is needed.")
        try:
            self._send(*self._content(name))
        except FileNotFoundError:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such file.")
        except UserError as error:
            self._refuse(HTTPStatus.BAD_GATEWAY, str(error))

    def _content(self, name: str) -> tuple[str, bytes]:
        """Media type and bytes."""
        uri = storage.join(self.server.folder, name) if name else self.server.folder
        if name and storage.exists(uri) and not name.endswith("/"):
            num_bytes = storage.size_bytes(uri)
            if num_bytes > _LARGEST_BYTES:
                raise UserError(f"The file has {num_bytes / 2**20:.0f} MiB; the viewer shows up to 512. Copy it.")
            return mimetypes.guess_type(name)[0] or "text/plain", self._with_silence(name, uri, storage.read_bytes(uri))
        return "text/html", _listing(storage.list_files(uri))

    def _with_silence(self, name: str, uri: str, content: bytes) -> bytes:
        """The page of a run says what it was doing when it was written: that no job does it any more is said here."""
        if name.rpartition("/")[2] != _RUN_PAGE or PLACE.encode() not in content:
            return content
        watch = self.server.watch(uri.rpartition("/")[0])
        return say_silence(content, watch.last_beat_s(), time.time()) if watch.is_silent() else content

    def _send(self, media_type: str, content: bytes, status: HTTPStatus = HTTPStatus.OK) -> None:
        text = media_type.startswith("text/") or media_type == "application/json"
        self.send_response(status)
        self.send_header("Content-Type", f"{media_type}; charset=utf-8" if text else media_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send("text/plain", why.encode(), status)

    def log_message(self, format: str, *args: object) -> None:
        """Names of files stay out of the terminal."""


def _listing(files: Mapping[str, int]) -> bytes:
    """The page of a folder that has none: its pictures, folder by folder, and the names of the other files."""
    if not files:
        raise FileNotFoundError
    pictures: dict[str, list[str]] = {}
    others = []
    for name in sorted(files):
        if name.lower().endswith(_PICTURES):
            pictures.setdefault(name.rpartition("/")[0], []).append(name)
        else:
            others.append(name)
    values = {
        "pictures": sorted(pictures.items(), key=lambda each: (each[0] not in _FIRST_FOLDERS, each[0])),
        "others": others,
        "files": files,
        "most": _MOST_LISTED,
    }
    return render_page(_TEMPLATE, {"address": quote}, values)
