"""Time and memory of a way of loading, over all processes that work for it."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import psutil
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from sa2va_ray.data.batch import Batch


@dataclass(frozen=True)
class Measured:
    """`first_batch_s`: from the call to the first batch. `samples_per_cpu_s`: per second of CPU time."""

    first_batch_s: float
    samples_per_s: float
    samples_per_cpu_s: float


@contextmanager
def watched_memory(roots: list[psutil.Process]) -> Iterator[dict[str, float]]:
    """Gives a dict that holds, at the end of the `with` block, what was most of each, in MiB."""
    peaks: dict[str, float] = {}
    done = threading.Event()
    state = get_state_from_address(ray.get_runtime_context().gcs_address)

    def watch() -> None:
        while not done.wait(0.25):
            stats = get_memory_info_reply(state).store_stats
            usage = [usage for process in descendants(roots) if (usage := actor_memory(process))]
            now = {
                "peak store": stats.object_store_bytes_used,
                "spilled so far": stats.spilled_bytes_total,
                "actor RSS": max((each.rss for each in usage), default=0),
                "actor USS": max((each.uss for each in usage), default=0),  # without what it shares, as the store
            }
            peaks.update({name: max(peaks.get(name, 0.0), value / 2**20) for name, value in now.items()})

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def actor_memory(process: psutil.Process) -> Any:
    """Memory of a data actor; None for any other process, or one that has ended."""
    with suppress(psutil.Error):
        return process.memory_full_info() if "MapWorker" in " ".join(process.cmdline()) else None


def descendants(roots: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Those of the processes that live, and all that they started."""
    family = set()
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            family |= {root, *root.children(recursive=True)}
    return family


def measure(start: Callable[[], Iterator[Batch]], num_samples: int, roots: Iterable[psutil.Process]) -> Measured:
    """Takes a tenth of the samples as warm-up, measures `num_samples`, and lets the rest be, so that neither the start
    nor the end, where workers run dry, is in the figure."""
    begin_s = time.perf_counter()
    batches = start()
    next(batches)
    first_batch_s = time.perf_counter() - begin_s
    take(batches, num_samples // 10)
    processes = [psutil.Process(), *roots]
    cpu_s, begin_s = cpu_seconds(processes), time.perf_counter()
    take(batches, num_samples)
    wall_s = time.perf_counter() - begin_s
    # Processes of earlier rounds end at any time: what they had used before is in neither sum.
    used_s = sum(seconds - cpu_s.get(process, 0.0) for process, seconds in cpu_seconds(processes).items())
    for _ in batches:
        pass
    return Measured(first_batch_s, num_samples / wall_s, num_samples / used_s)


def take(batches: Iterator[Batch], count: int) -> None:
    for _ in islice(batches, count):
        pass


def cpu_seconds(roots: Iterable[psutil.Process]) -> dict[psutil.Process, float]:
    """CPU time so far of processes and all their descendants that live."""
    seconds = {}
    for process in descendants(roots):
        with suppress(psutil.NoSuchProcess):
            seconds[process] = sum(process.cpu_times()[:2])
    return seconds
