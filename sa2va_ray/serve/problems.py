"""Errors as RFC 9457 problem documents, with what to do about them."""

from fastapi.responses import JSONResponse


class Problem(Exception):
    """A request that cannot be served: becomes an `application/problem+json` reply.

    Args:
        status: HTTP status, 4xx or 503.
        title: the kind of problem, the same words each time.
        detail: what was wrong with this request; no file name and nothing of an image.
        cure: what to do about it.
        retry_after_s: for 429 and 503, when to try again.
    """

    def __init__(self, status: int, title: str, detail: str, cure: str, retry_after_s: float | None = None):
        super().__init__(detail)
        self.status, self.title, self.detail, self.cure = status, title, detail, cure
        self.retry_after_s = retry_after_s

    def body(self, request_id: str) -> dict[str, str | int]:
        """The document."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "cure": self.cure,
            "request_id": request_id,
        }

    def response(self, request_id: str) -> JSONResponse:
        headers = {"Retry-After": str(max(1, round(self.retry_after_s)))} if self.retry_after_s is not None else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(request_id), self.status, headers, media_type="application/problem+json")
