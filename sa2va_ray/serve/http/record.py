"""The record of a request and its reply: how it is measured, counted, and written to the audit log."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request

from sa2va_ray.serve.guard.access import Access
from sa2va_ray.serve.guard.audit_log import AuditLog
from sa2va_ray.serve.metrics import RequestMetrics
from sa2va_ray.serve.problems import Problem, as_problem
from sa2va_ray.telemetry import LOGGER, Stopwatch

_CLIENT_CLOSED_REQUEST = 499  # nginx's code: the caller has not waited for the reply
_RETRY_AFTER_S = 60  # a disk does not become free in a second


@dataclass
class RequestRecord:
    """What is measured of a request, and what the audit log holds of it.

    Attributes:
        key_id: of the caller's API key.
        model_sha256: of the model that answered.
        input_sha256, output_sha256: SHA-256 of the encoded image and of the reply's body.
        timing_ms: time of each stage, in the order in which they ended.
    """

    request_id: str
    key_id: str = ""
    model_sha256: str | None = None
    input_sha256: str | None = None
    output_sha256: str | None = None
    timing_ms: dict[str, float] = field(default_factory=dict)
    _watch: Stopwatch = field(default_factory=Stopwatch)

    def end_stage(self, stage: str) -> None:
        """Notes the time since the last stage ended."""
        self.timing_ms[stage] = 1000 * self._watch.lap_s()

    def end_two_stages(self, first: str, second: str, second_ms: float) -> None:
        """Ends two stages at once, of which another process has measured the second."""
        self.timing_ms[first] = 1000 * self._watch.lap_s() - second_ms
        self.timing_ms[second] = second_ms

    def set_input(self, image: bytes) -> None:
        """Notes the hash of the encoded image."""
        self.input_sha256 = hashlib.sha256(image).hexdigest()

    def set_output(self, body: bytes) -> None:
        """Notes the hash of the reply's body."""
        self.output_sha256 = hashlib.sha256(body).hexdigest()


@dataclass(frozen=True)
class Recorder:
    """Checks the access of each request, counts it, and writes it to the audit log."""

    access: Access
    metrics: RequestMetrics
    audit: AuditLog | None
    _audit_thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def check_open(self, request: Request) -> None:
        """Checks, before any route, what holds for all of them.

        Raises:
            Problem: no access, whatever the route; the refusal is recorded.
        """
        try:
            self.access.check_open(request)
        except Problem:
            async with self._recorded(RequestRecord(request.state.id), "refused"):
                raise

    @asynccontextmanager
    async def record(self, request: Request, route: str) -> AsyncIterator[RequestRecord]:
        """Lets a request in, and records it when it ends.

        Args:
            route: its name in the metrics.

        Raises:
            Problem: no access.
        """
        async with self._recorded(RequestRecord(request.state.id), route) as record:
            record.key_id = self.access.identify(request.headers, request.client.host if request.client else "")
            self.access.admit(record.key_id)
            yield record

    @asynccontextmanager
    async def record_part(self, whole: RequestRecord, route: str) -> AsyncIterator[RequestRecord]:
        """Records one image of a request that has been let in; it does not count against the key's limit."""
        async with self._recorded(RequestRecord(whole.request_id, whole.key_id), route) as record:
            yield record

    @asynccontextmanager
    async def _recorded(self, record: RequestRecord, route: str) -> AsyncIterator[RequestRecord]:
        watch = Stopwatch()
        self.metrics.begin()
        status, problem = 500, None
        try:
            yield record
            status = 200
        except Exception as error:
            problem = as_problem(error, record.request_id)
            status = problem.status
            raise problem from None
        except asyncio.CancelledError:
            status = _CLIENT_CLOSED_REQUEST
            raise
        finally:
            try:
                await self._write_audit(record, status, 1000 * watch.lap_s())
            except Problem as unwritten:  # is what the caller gets
                status, problem = unwritten.status, unwritten
                raise
            finally:
                self.metrics.end(route, status)
                self.metrics.stages(record.timing_ms)
                if problem:
                    self.metrics.problem(problem.title)

    async def _write_audit(self, record: RequestRecord, status: int, latency_ms: float) -> None:
        """
        Raises:
            Problem: it could not be written.
        """
        if self.audit:
            written = asyncio.get_running_loop().run_in_executor(
                self._audit_thread, self._append, self.audit, record, status, latency_ms
            )
            await asyncio.shield(written)  # a caller who leaves cannot prevent it

    @staticmethod
    def _append(audit: AuditLog, record: RequestRecord, status: int, latency_ms: float) -> None:
        try:
            audit.append(
                key_id=record.key_id,
                request_id=record.request_id,
                model_sha256=record.model_sha256,
                input_sha256=record.input_sha256,
                output_sha256=record.output_sha256,
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
