"""What the endpoint's processes, HTTP side and replicas, have in common."""

import sys

from sa2va_ray.telemetry import configure_logging

_SWITCH_INTERVAL_S = 0.0005


def prepare_process() -> None:
    """Logging, and an event loop that gets its turn soon beside threads that decode, encode or predict in Python: each
    of the ten steps of a request through a loop would wait 5 ms, Python's default, for the interpreter's lock."""
    configure_logging()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
