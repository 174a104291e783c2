"""Sends in the background what a run reports, so that no step waits for a network."""

import threading
import time
from collections.abc import Callable

from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER


class Sender:
    """Calls functions in a thread, never twice at once. Where the other side does not answer, what was to be sent goes
    with the next call."""

    def __init__(self, what: str, every_s: float, *sends: Callable[[], None]):
        """
        Args:
            what: is sent, for the log: "curves".
            every_s: least time between two calls that `offer` makes.
            sends: each may raise `StorageError`.
        """
        self._what, self._every_s, self._sends = what, every_s, sends
        self._lock = threading.Lock()
        self._is_wanted = self._fails = False
        self._begun_s: float | None = None
        self._thread: threading.Thread | None = None

    def offer(self) -> None:
        """Sends, unless that was done a moment ago."""
        if self._begun_s is None or time.monotonic() - self._begun_s > self._every_s:
            self.send()

    def send(self) -> None:
        """Sends what there is now: at once, or as soon as the sending that goes on has ended."""
        with self._lock:
            self._is_wanted = True
            self._begun_s = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._what, daemon=True)
                self._thread.start()

    def wait(self, limit_s: float) -> bool:
        """Whether all was sent within `limit_s`."""
        thread = self._thread
        if thread:
            thread.join(limit_s)
        return not (thread and thread.is_alive())

    def _run(self) -> None:
        while self._take():
            fails = False
            for send in self._sends:
                try:
                    send()
                except StorageError as error:
                    if not (self._fails or fails):  # once, until it answers again
                        LOGGER.warning("%s are sent again later: %s", self._what, error)
                    fails = True
                except Exception:  # a report that cannot be made is no reason to end a run, or to make no other
                    LOGGER.exception("%s could not be sent", self._what)
            self._fails = fails

    def _take(self) -> bool:
        """Whether there is anything to send; if not, the thread is given up."""
        with self._lock:
            taken, self._is_wanted = self._is_wanted, False
            if not taken:
                self._thread = None
            return taken
