"""Problem documents (RFC 9457): what a request gets that cannot be served."""

from typing import Any

from fastapi.responses import JSONResponse


class Problem(Exception):
    """A request that cannot be served: becomes an `application/problem+json` reply.

    Args:
        status: HTTP status, 4xx or 503.
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
