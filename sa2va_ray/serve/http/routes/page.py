"""The page at `/`: files of `page/`, and the palette of all pictures. They ask the API of their own origin alone."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

from sa2va_ray.pictures.palette import css_variables

_FOLDER = Path(__file__).parents[1] / "page"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # blob: is the image that the user chose. No inline script or style, no other host.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # may be kept, but is asked for each time: a page must fit its server
}
_CONTENTS = {file.name: file.read_bytes() for file in sorted(_FOLDER.iterdir())}
_CONTENTS["palette.css"] = css_variables().encode()

# No API key is needed for these: the page is where a user types it.

router = APIRouter(include_in_schema=False)


def _add_route(name: str, content: bytes) -> None:
    headers = _HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}

    @router.get("/" if name == "index.html" else f"/{name}")
    async def send(request: Request) -> Response:
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_MEDIA_TYPES[Path(name).suffix])


for _name, _content in _CONTENTS.items():
    _add_route(_name, _content)
