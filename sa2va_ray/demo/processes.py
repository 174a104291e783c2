"""Processes as a stack keeps them: recorded so that a later process finds the same ones, and ended in order."""

import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import psutil

_STOP_LIMIT_S = 20.0
_RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # parts of a node, without which it fails
_ROUNDING_S = 2.0  # psutil adds a boot time in whole seconds, which may change by one


class Process(NamedTuple):
    """A process as recorded. The boot and its start (s since then, which setting the clock leaves alone) tell it from
    a later one with the same pid."""

    name: str
    pid: int
    started_s: float
    boot_id: str

    @classmethod
    def of(cls, name: str, process: psutil.Process) -> Self:
        return cls(name, process.pid, _started_s(process), _boot_id())

    def find(self) -> psutil.Process | None:
        """The process if it still runs, None if it has ended, also where its pid is another's by now."""
        try:
            process = psutil.Process(self.pid)
            same = self.boot_id == _boot_id() and abs(_started_s(process) - self.started_s) < _ROUNDING_S
        except psutil.NoSuchProcess:
            return None
        return process if same and _is_alive(process) else None


def end_with_descendants(processes: Iterable[psutil.Process]) -> None:
    """Asks the processes and all their descendants to end, in order, and kills what has not ended then."""
    family = _with_descendants(processes)
    _terminate(family)
    # A process may have started others while it was asked to end.
    family |= _with_descendants(family)
    _signal(family, signal.SIGKILL)
    deadline_s = time.monotonic() + _STOP_LIMIT_S
    while any(_is_alive(process) for process in family) and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _boot_id() -> str:
    """Linux draws another one at each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started_s(process: psutil.Process) -> float:
    return process.create_time() - psutil.boot_time()


def _is_alive(process: psutil.Process) -> bool:
    """A zombie counts as ended: only its parent can remove it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_ray_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        title = " ".join(process.cmdline()).strip()
        return title.startswith("ray::") and title not in _RAY_AGENTS
    return False


def _parent(process: psutil.Process) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        return process.parent()
    return None


def _with_descendants(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    family = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            family |= {process, *process.children(recursive=True)}
    return family


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)  # psutil refuses where the pid is another process's by now


def _terminate(family: set[psutil.Process]) -> None:
    """Asks those processes to end whose parent is not of the family, and each other one when its parent has gone.

    `ray start` ends its parts in order in 2 to 12 s; asked all at once, they wait for one another for over 25 s. Its
    workers are asked with it: for an actor that lives on, as Ray's own of a training do, it waits until it is killed.
    """
    asked: set[psutil.Process] = set()
    deadline_s = time.monotonic() + _STOP_LIMIT_S
    while (living := {process for process in family if _is_alive(process)}) and time.monotonic() < deadline_s:
        top = {process for process in living if _parent(process) not in living or _is_ray_worker(process)} - asked
        _signal(top, signal.SIGTERM)
        asked |= top
        time.sleep(0.1)
