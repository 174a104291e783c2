"""What the endpoint's processes, HTTP side and replicas, have in common."""

import ctypes
import sys

from sa2va_ray.telemetry import configure_logging

_SWITCH_INTERVAL_S = 0.0005
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_MMAP_THRESHOLD_BYTES = 2**20


def prepare_process() -> None:
    """Logging, and an event loop that gets its turn soon beside threads that decode, encode or predict in Python: each
    of the ten steps of a request through a loop would wait 5 ms, Python's default, for the interpreter's lock."""
    configure_logging()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def give_memory_back() -> None:
    """Has glibc return the memory of an image when it is freed. By itself it raises this threshold as blocks come and
    go, up to 32 MiB, and keeps what lies below."""
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
