"""What is raised when there is no result."""


class EndpointError(Exception):
    """The endpoint gave no result; the base of the two errors below."""


class NoReplyError(EndpointError):
    """The endpoint could not be reached, broke the connection, or took too long."""


class ProblemError(EndpointError):
    """The endpoint refused. Title, detail and cure are those of its problem document."""

    def __init__(self, status: int, title: str, detail: str, cure: str, request_id: str):
        super().__init__(status, title, detail, cure, request_id)
        self.status, self.title, self.detail, self.cure, self.request_id = status, title, detail, cure, request_id

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail} {self.cure} (request {self.request_id})"


class ForeignReplyError(ProblemError):
    """The reply is no problem document of the endpoint's: it is that of a proxy, or of Serve before it has called our
    code."""
