"""One job at a time trains a run: `lock.json` in the run's folder says which.

pyarrow's S3 has no conditional writes, so the lock is a lease. Its owner writes a beat into it every few seconds, and
reads it first: where another's name stands there, the lock is lost. Who finds a lock watches it, and takes it over when
no beat has come for `DEAD_AFTER_S`. That is measured on the watcher's own clock alone, so clocks may differ, and only
while the store answers. Of two that write at once the later write stands, and `confirm` tells both.
"""

import json
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.storage import StorageError
from sa2va_ray.submission import submission_id
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.checkpoints.beat import BEAT_EVERY_S, DEAD_AFTER_S, LOCK_FILE
from sa2va_ray.train.collectives import from_rank_0
from sa2va_ray.train.errors import RunStoppedError

_SETTLE_S = 1.0  # a write that began before ours was seen has ended by then
_POLL_S = 0.5


class LockLostError(UserError):
    """Another job has taken the run over."""


class RunLock:
    """The lock of a run as a context manager. Its `owner` is the id that `check_owner` takes."""

    def __init__(self, run_uri: str, beat_every_s: float = BEAT_EVERY_S, dead_after_s: float = DEAD_AFTER_S):
        self.owner = uuid.uuid4().hex
        self._run_uri, self._beat_every_s, self._dead_after_s = run_uri, beat_every_s, dead_after_s
        self._record: dict[str, Any] = {
            "owner": self.owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": submission_id(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "beat": 0,
        }
        self._written_s = 0.0
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_stopped, name="run lock", daemon=True)

    def __enter__(self) -> Self:
        """Takes the lock.

        Raises:
            UserError: a job that gives signs of life has the run; the message names its Ray job, process, host and
                start.
        """
        found = _read(self._run_uri)
        if found is not None:
            self._wait_for_its_end(found)
        self._write()
        self._written_s = time.monotonic()
        self._renewer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._renewer.join()
        try:
            check_owner(self._run_uri, self.owner)
            storage.delete_files(self._run_uri, [LOCK_FILE])
        except StorageError as failed:
            LOGGER.warning("the run's lock stays for %.0f s: %s", self._dead_after_s, failed)
        except (LockLostError, FileNotFoundError):
            pass  # it is another's now, who may have given it back

    def confirm(self) -> None:
        """Checks that the lock is still this job's, once the write of another would show. Call it before work begins.

        Raises:
            LockLostError: another job took it at the same moment.
        """
        time.sleep(max(0.0, self._written_s + _SETTLE_S - time.monotonic()))
        check_owner(self._run_uri, self.owner)

    def _wait_for_its_end(self, found: bytes) -> None:
        LOGGER.info("%s is locked; waiting up to %.0f s for a sign of life", self._run_uri, self._dead_after_s)
        waited_s = 0.0  # the pauses alone: a store that hangs says nothing of the other job
        while waited_s < self._dead_after_s:
            time.sleep(_POLL_S)
            waited_s += _POLL_S
            now = _read(self._run_uri)
            if now is None:
                return
            if now != found:
                raise UserError(_refusal(self._run_uri, now, self._dead_after_s))
        LOGGER.warning("taken over from %s, which gave no sign of life in %.0f s", _name(found), waited_s)

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self._beat_every_s):
            try:
                check_owner(self._run_uri, self.owner)
                self._record["beat"] += 1
                self._write()
            except StorageError as error:
                LOGGER.warning("the run's lock could not be renewed: %s", error)
            except LockLostError as error:
                LOGGER.error("%s", error)
                return
            except Exception:  # without its beat the lock would be lost, and nobody told
                LOGGER.exception("the run's lock could not be renewed")

    def _write(self) -> None:
        storage.write_bytes(storage.join(self._run_uri, LOCK_FILE), (json.dumps(self._record) + "\n").encode())


def check_owner_together(run_uri: str, owner: str) -> None:
    """Checks on rank 0, for all ranks, that the run is still this job's. Every rank calls it; a store that does not
    answer is no reason to end.

    Raises:
        RunStoppedError: another job has taken the run over.
    """
    if lost := from_rank_0(lambda: _loss_of_lock(run_uri, owner)):
        raise RunStoppedError(lost)


def _loss_of_lock(run_uri: str, owner: str) -> str | None:
    """Why the run is not the owner's any more; None where it is, or where the store does not answer."""
    try:
        check_owner(run_uri, owner)
    except StorageError:
        return None
    except LockLostError as error:
        return str(error)
    return None


def check_owner(run_uri: str, owner: str) -> None:
    """Checks that a run's lock is its owner's.

    Raises:
        LockLostError: the run's lock is another's, or was deleted.
    """
    found = _read(run_uri)
    if found is None or _parse(found).get("owner") != owner:
        holder = "nobody: its lock was deleted" if found is None else _name(found)
        raise LockLostError(
            f"The run {run_uri} was taken over; it is held by {holder}. This job saves nothing more there, and ends."
        )


def _read(run_uri: str) -> bytes | None:
    try:
        return storage.read_bytes(storage.join(run_uri, LOCK_FILE))
    except FileNotFoundError:
        return None


def _parse(data: bytes) -> dict[str, Any]:
    """The record of a lock; empty for bytes that are none."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _name(data: bytes) -> str:
    record = _parse(data)
    process = f"process {record.get('pid')} on {record.get('host')}, since {record.get('since')} of its clock"
    return f"Ray job {job}, {process}" if (job := record.get("job")) else process


def _refusal(run_uri: str, data: bytes, dead_after_s: float) -> str:
    job = _parse(data).get("job")
    watch, end = (f" (ray job logs --follow {job})", f" (ray job stop {job})") if job else ("", "")
    return (
        f"Another job trains the run {run_uri}: {_name(data)}. Wait for its end{watch}, or take another name=... for a "
        f"new run. To take the run over, end that job{end} and start this one again: it waits {dead_after_s:.0f} s for "
        f"a sign of life and then goes on from the newest checkpoint. If that job cannot be reached, delete "
        f"{storage.join(run_uri, LOCK_FILE)}: it then saves nothing more."
    )
