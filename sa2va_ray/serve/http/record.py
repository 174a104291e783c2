"""One request and its reply, as it is measured and put on record."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request

from sa2va_ray.serve.guard.access import Access, Scope
from sa2va_ray.serve.guard.audit import AuditLog
from sa2va_ray.serve.metrics import RequestMetrics
from sa2va_ray.serve.problems import Problem, as_problem
from sa2va_ray.telemetry import LOGGER, Stopwatch

_GONE = 499  # as nginx calls it: the caller has not waited for the reply
_RETRY_AFTER_S = 60  # a disk does not become free in a second


@dataclass
class Exchange:
    """Attributes:
    timing_ms: by stage, in the order in which they were done.
    """

    request_id: str
    key_id: str = ""
    model_name: str = ""
    model_sha256: str | None = None
    input_sha256: str | None = None
    output_sha256: str | None = None
    timing_ms: dict[str, float] = field(default_factory=dict)
    _watch: Stopwatch = field(default_factory=Stopwatch)

    def lap(self, stage: str) -> None:
        """Ends a stage."""
        self.timing_ms[stage] = 1000 * self._watch.lap_s()

    def split_lap(self, first: str, second: str, second_ms: float) -> None:
        """Ends two stages, of which another process has measured the second."""
        self.timing_ms[first] = 1000 * self._watch.lap_s() - second_ms
        self.timing_ms[second] = second_ms

    def brought(self, data: bytes) -> None:
        """The encoded image."""
        self.input_sha256 = hashlib.sha256(data).hexdigest()

    def answered_by(self, name: str, sha256: str | None) -> None:
        self.model_name, self.model_sha256 = name, sha256

    def gave(self, body: bytes) -> bytes:
        """The reply's body, returned as it is."""
        self.output_sha256 = hashlib.sha256(body).hexdigest()
        return body


@dataclass(frozen=True)
class Recorder:
    """What each exchange goes through: access, metrics, audit."""

    access: Access
    metrics: RequestMetrics
    audit: AuditLog | None
    _audit_thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def let_in(self, request: Request) -> None:
        """To be asked of every request, before its route.

        Raises:
            Problem: no access, whatever the route; that is put on record.
        """
        try:
            self.access.check_open(request)
        except Problem:
            async with self._recorded(Exchange(request.state.id), "refused"):
                raise

    @asynccontextmanager
    async def exchange(self, request: Request, route: str, scope: Scope) -> AsyncIterator[Exchange]:
        """
        Args:
            scope: that the caller's key must have.

        Raises:
            Problem: no access.
        """
        async with self._recorded(Exchange(request.state.id), route) as exchange:
            exchange.key_id = self.access.identify(request.headers, request.client.host if request.client else "")
            self.access.admit(exchange.key_id, scope)
            yield exchange

    @asynccontextmanager
    async def part(self, whole: Exchange, route: str) -> AsyncIterator[Exchange]:
        """One image of a request that has been let in: on record by itself, and not counted against the key's limit."""
        async with self._recorded(Exchange(whole.request_id, whole.key_id), route) as exchange:
            yield exchange

    @asynccontextmanager
    async def _recorded(self, exchange: Exchange, route: str) -> AsyncIterator[Exchange]:
        watch = Stopwatch()
        self.metrics.begin()
        status = 500
        try:
            yield exchange
            status = 200
        except Exception as error:
            problem = as_problem(error, exchange.request_id)
            status = problem.status
            self.metrics.problem(problem.title)
            raise problem from None
        except asyncio.CancelledError:
            status = _GONE
            raise
        finally:
            self.metrics.end(route, status)
            self.metrics.stages(exchange.timing_ms)
            if self.audit:
                latency_ms = 1000 * watch.lap_s()
                record = asyncio.get_running_loop().run_in_executor(
                    self._audit_thread, self._put_on_record, self.audit, exchange, status, latency_ms
                )
                await asyncio.shield(record)  # a caller who has gone may not take it back

    @staticmethod
    def _put_on_record(audit: AuditLog, exchange: Exchange, status: int, latency_ms: float) -> None:
        try:
            audit.append(
                key_id=exchange.key_id,
                request_id=exchange.request_id,
                model_sha256=exchange.model_sha256,
                input_sha256=exchange.input_sha256,
                output_sha256=exchange.output_sha256,
                latency_ms=latency_ms,
                status=status,
            )
        except OSError as error:
            LOGGER.error("a record of the audit log could not be written: %s", error.strerror or error)
            raise Problem(
                503,
                "Not ready",
                "The audit log cannot be written, and nothing is answered without a record.",
                "Tell whoever runs this endpoint: its disk may be full.",
                retry_after_s=_RETRY_AFTER_S,
            ) from None
