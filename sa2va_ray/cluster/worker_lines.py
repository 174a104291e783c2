"""What Ray prints of the processes of a job, without what tells a user nothing (see `noise`)."""

import atexit
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

from sa2va_ray.noise import HELPERS, LineFilter, quieten_console

_RAYS_PRINTER = "ray_print_logs"

_Batch = dict[str, Any]
"""`lines` of one process, its `ip`, `pid`, `is_err`, and `actor_name`, as Ray hands them to the driver."""


def quieten_job() -> None:
    """For the driver, once it is connected."""
    for name, printer in list(dispatcher.handlers):
        if name == _RAYS_PRINTER and not isinstance(printer, _Printer):
            dispatcher.remove_handler(name)
            dispatcher.add_handler(name, _Printer(printer))
    quieten_console("ray.data")
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler, which ends a job that is stopped in the same way, prints a stack of native frames first.
        signal.signal(signal.SIGTERM, _end)
        # A job that is at its end when it is stopped would show a traceback of Ray's leave-taking.
        atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)


class _Printer:
    """Ray's printer, which gets what is to be seen."""

    def __init__(self, printer: Callable[[_Batch], None]):
        self._print, self._filter = printer, LineFilter()

    def __call__(self, batch: _Batch) -> None:
        if batch.get("actor_name") in HELPERS:
            return
        source = tuple(batch.get(key) for key in ("ip", "pid", "is_err"))
        if lines := self._filter.kept(source, batch["lines"]):
            self._print({**batch, "lines": lines})


def _end(number: int, frame: object) -> None:
    sys.exit(number)
