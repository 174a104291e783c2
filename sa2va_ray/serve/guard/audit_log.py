"""Writing the audit log: one JSON line for each request, with the SHA-256 of the line before."""

import fcntl
import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sa2va_ray.config import UserError

FIRST_SHA256 = "0" * 64
"""Stands for the hash before the first record."""
_FIELDS = (
    "sequence",
    "time",
    "key_id",
    "request_id",
    "model_sha256",
    "input_sha256",
    "output_sha256",
    "latency_ms",
    "status",
    "previous_sha256",
    "sha256",
)
_TAIL_BYTES = 64 * 1024


class AuditLog:
    """The one writer of a file. Threads may share it; each process that serves needs a file of its own."""

    def __init__(self, path: str | Path):
        """Opens the file, or makes it, readable by its owner only, and goes on with its chain.

        A last line that a crash cut off stays, and the verifier reports it; the chain goes on from the last whole one.

        Raises:
            UserError: no such folder, or another process writes this file.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise UserError(f"There is no folder {path.parent} for the audit log. Make it, or correct the path.")
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _lock_file(self._fd, path)
            os.fchmod(self._fd, 0o600)
            last, self._is_torn = _read_end(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self._next = last["sequence"] + 1 if last else 0
        self._previous = last["sha256"] if last else FIRST_SHA256

    def append(
        self,
        *,
        key_id: str | None,
        request_id: str,
        model_sha256: str | None,
        input_sha256: str | None,
        output_sha256: str | None,
        latency_ms: float,
        status: int,
    ) -> dict[str, Any]:
        """Writes one record and returns it. None is for what a request that failed has not got.

        Raises:
            OSError: it could not be written, wholly; the log can be used on.
        """
        with self._lock:
            record = {
                "sequence": self._next,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "key_id": key_id,
                "request_id": request_id,
                "model_sha256": model_sha256,
                "input_sha256": input_sha256,
                "output_sha256": output_sha256,
                "latency_ms": round(latency_ms, 3),
                "status": status,
                "previous_sha256": self._previous,
            }
            record["sha256"] = hash_record(record)
            self._write(to_line(record))
            self._next, self._previous = self._next + 1, record["sha256"]
        return record

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, line: bytes) -> None:
        if self._is_torn:
            line = b"\n" + line
        written = os.write(self._fd, line)
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError(f"{written} of {len(line)} bytes of an audit record were written; the disk may be full.")


def hash_record(record: dict[str, Any]) -> str:
    """SHA-256 of a record without its own hash."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(to_line(content)).hexdigest()


def to_line(record: dict[str, Any]) -> bytes:
    """A record as its line of the file."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None where it is not a whole one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = (
        line.endswith(b"\n")
        and isinstance(record, dict)
        and tuple(record) == _FIELDS
        and not any(isinstance(value, dict | list) for value in record.values())
        and type(record["sequence"]) is int
        and isinstance(record["sha256"], str)
    )
    return record if is_record else None


def _lock_file(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"The audit log {path} is being written by another process, and two would break its chain. Stop that one, "
            "or give each a file of its own."
        ) from None


def _read_end(fd: int) -> tuple[dict[str, Any] | None, bool]:
    """The last whole record, and whether the file ends within a line."""
    size = os.fstat(fd).st_size
    length = min(size, _TAIL_BYTES)
    while True:
        tail = os.pread(fd, length, size - length)
        lines = tail.splitlines(keepends=True)
        if length < size:
            lines = lines[1:]  # it may begin within one
        last = next((record for line in reversed(lines) if (record := parse_record(line))), None)
        if last or length == size:
            return last, bool(tail) and not tail.endswith(b"\n")
        length = min(size, 2 * length)
