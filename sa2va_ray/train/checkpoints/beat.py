"""The sign of life of the job that trains a run: the beat in the run's `lock.json`, and whether one comes."""

import time
from collections.abc import Callable

from sa2va_ray import storage

LOCK_FILE = "lock.json"
BEAT_EVERY_S = 5.0
DEAD_AFTER_S = 20.0


class BeatWatch:
    """Looks at a run's lock whenever it is asked. It goes by its own clock alone, since clocks of machines differ."""

    def __init__(self, run_uri: str, clock: Callable[[], float] = time.monotonic):
        """
        Args:
            clock: seconds, never going back.
        """
        self._uri, self._clock = storage.join(run_uri, LOCK_FILE), clock
        self._seen, self._since_s = self._read(), clock()

    def is_silent(self) -> bool:
        """Whether no beat has come for longer than a job that lives would leave out."""
        found = self._read()
        if found != self._seen:
            self._seen, self._since_s = found, self._clock()
        return self._clock() - self._since_s > DEAD_AFTER_S

    def last_beat_s(self) -> float | None:
        """When the lock was written, by the store's clock: seconds since 1970; None where there is no lock."""
        try:
            return storage.modified_s(self._uri)
        except FileNotFoundError:
            return None

    def _read(self) -> bytes | None:
        try:
            return storage.read_bytes(self._uri)
        except FileNotFoundError:
            return None
