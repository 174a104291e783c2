"""Problem documents (RFC 9457): what a request gets that cannot be served."""

import traceback
from typing import Any

from fastapi.responses import JSONResponse

from sa2va_ray.telemetry import LOGGER


class Problem(Exception):
    """A request that cannot be served: becomes an `application/problem+json` reply.

    Args:
        status: HTTP status, 4xx, 503 or 504; 500 for a fault of our own.
        title: the kind of problem, the same words each time.
        detail: what was wrong with this request; without names of files and without any of its content.
        cure: what to do about it.
        retry_after_s: when to try again, for 429 and 503.
    """

    def __init__(self, status: int, title: str, detail: str, cure: str, retry_after_s: int | None = None):
        super().__init__(status, title, detail, cure, retry_after_s)  # all of them, so that it can be pickled
        self.status, self.title, self.detail, self.cure = status, title, detail, cure
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.detail

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """The body of the reply."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "cure": self.cure,
            "request_id": request_id,
        }

    def response(self, request_id: str | None = None) -> JSONResponse:
        """The reply, with the headers that its status asks for."""
        headers = {}
        if self.status == 401:  # RFC 9110 wants it on each of them
            headers["WWW-Authenticate"] = "Bearer"
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return JSONResponse(
            self.document(request_id),
            status_code=self.status,
            headers=headers,
            media_type="application/problem+json",
        )


def as_problem(error: Exception, request_id: str) -> Problem:
    """A problem as it is. Of an exception that nobody foresaw the text may hold what the caller sent, so the log gets
    its type and place alone."""
    if isinstance(error, Problem):
        return error
    place = "".join(traceback.format_tb(error.__traceback__))
    LOGGER.error("request %s ended in a %s:\n%s", request_id, type(error).__name__, place)
    return Problem(
        500,
        "Server error",
        f"The server failed on this request ({type(error).__name__}). Other requests are not touched.",
        "Tell whoever runs this endpoint the request id.",
    )
