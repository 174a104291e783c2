"""Logging and progress in one format. A progress line can be read back, so that a bar can be drawn from a log."""

import logging
import os
import re
import shlex
import threading
import time
from types import TracebackType
from typing import Self

LOGGER = logging.getLogger("sa2va_ray")

_NUM_PROGRESS_LINES = 20
_SHORTEST_PAUSE_S = 1.0
_LONGEST_SILENCE_S = 8.0
_PROGRESS = re.compile(r"progress (\w+) (\d+)/(\d+)")


def configure_logging() -> None:
    """Logs to stderr as `HH:MM:SS message`. To be called once in each process that logs: job driver or worker."""
    if LOGGER.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(os.environ.get("SA2VA_LOG_LEVEL", "INFO"))
    LOGGER.propagate = False


def log_progress(what: str, done: int, total: int, detail: str = "") -> None:
    """Logs `progress WHAT DONE/TOTAL DETAIL`, which `parse_progress` reads back."""
    LOGGER.info("%s", f"progress {what} {done}/{total} {detail}".rstrip())


class Progress:
    """Progress of a part of a job as a context manager: some twenty lines in all, none within a second of another but
    the last, and one every few seconds where nothing gets done, so that a job which waits for a model can be told from
    one that hangs."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._done, self._detail = 0, ""
        self._logged, self._logged_s = 0, time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, name=f"progress {what}", daemon=True)

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._ticker.join()
        if self._logged < self._done < self._total:
            self._log()

    def at(self, done: int, detail: str = "") -> None:
        """So much is done."""
        with self._lock:
            self._done, self._detail = done, detail
            if done == self._total or self._is_due():
                self._log()

    def step(self, detail: str = "") -> None:
        """One more is done."""
        self.at(self._done + 1, detail)

    def _is_due(self) -> bool:
        silent_s = time.monotonic() - self._logged_s
        enough = self._done > self._logged and self._done - self._logged >= self._total / _NUM_PROGRESS_LINES
        return silent_s >= (_SHORTEST_PAUSE_S if enough else _LONGEST_SILENCE_S)

    def _log(self) -> None:
        self._logged, self._logged_s = self._done, time.monotonic()
        log_progress(self._what, self._done, self._total, self._detail)

    def _tick(self) -> None:
        """Logs what was held back, and that nothing gets done."""
        while not self._ended.wait(_SHORTEST_PAUSE_S):
            with self._lock:
                if self._is_due():
                    self._log()


def log_result(uri: str, *command: str, shown: str | None = None) -> None:
    """The last lines of a job: the arguments of `python -m` for what comes next, in which words in capitals stand for
    what the user has to give; how its result is looked at, and where it is.

    Args:
        command: none where the job has said what comes next.
        shown: what is looked at, where that is not the result itself.
    """
    if command:
        LOGGER.info("next: %s", shlex.join(["python", "-m", *command]))
    LOGGER.info("look at it: %s", shlex.join(["sa2va-ray", "open", shown or uri]))
    LOGGER.info("result: %s", uri)


def parse_progress(line: str) -> tuple[str, int, int] | None:
    """(what, done, total) of a line that `log_progress` wrote, None for any other line."""
    match = _PROGRESS.search(line)
    return (match[1], int(match[2]), int(match[3])) if match else None


class Stopwatch:
    """Seconds since it was made or last read."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()

    def lap_s(self) -> float:
        start_s, self._start_s = self._start_s, time.perf_counter()
        return self._start_s - start_s


class StartTimes:
    """Where the time of a start goes: seconds of its stages, in their order."""

    def __init__(self) -> None:
        self._watch = Stopwatch()
        self._stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Ends a stage."""
        self._stages[stage] = self._watch.lap_s()

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self._stages.items())
        return f"{sum(self._stages.values()):.1f} s ({stages})"
