"""Where a GPU's time goes: parts of a call, its kernels grouped by what they do, and the time in which none runs."""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

NUM_KERNELS = 25
_NAME_LENGTH = 90
_GPU_EVENTS = ("kernel", "gpu_memcpy", "gpu_memset")  # as a trace calls them

# The first pattern that is found in a kernel's name counts.
_CLASSES = {
    "NCCL": r"nccl",
    "attention": r"flash|fmha|attention|sdpa",
    "convolutions": r"conv|wgrad|dgrad|fprop",
    "matrix products": r"gemm|nvjet|cutlass|cublas|splitk|gemv",
    "optimizer": r"multi_tensor|adam",
    "compiled elementwise": r"^triton",
    "dropout, random numbers": r"dropout|philox|distribution",
    "copies, casts": r"memcpy|memset|copy|cat(array)?batched|fill",
    "norms, reductions": r"layer_?norm|norm|reduce|softmax",
    "other elementwise": r"elementwise|vectorized|foreach",
}
_OTHER = "other"


class Kernel(NamedTuple):
    """Attributes: name, and when it ran, in microseconds."""

    name: str
    start_us: float
    end_us: float


def record_kernels(call: Callable[[], object]) -> list[Kernel]:
    """Runs `call` once and returns what the GPU ran for it. Only the GPU is watched: to record operations of the CPU
    too would slow it down, and leave the GPU without work."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return [
        Kernel(event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") in _GPU_EVENTS
    ]


def time_parts(call: Callable[[], object], parts: Mapping[str, tuple[Any, str]]) -> dict[str, float]:
    """Runs `call` once and returns the GPU's seconds in each part, waits within it included.

    Args:
        parts: by name, the object and the name of its method that is the part. No part may hold another.
    """
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in parts}
    with ExitStack() as stack:
        for name, (owner, method) in parts.items():
            stack.enter_context(patch.object(owner, method, _timed(getattr(owner, method), events[name])))
        call()
    torch.cuda.synchronize()
    return {name: sum(start.elapsed_time(end) for start, end in pairs) / 1000 for name, pairs in events.items()}


def _timed(function: Callable[..., Any], events: list[tuple[torch.cuda.Event, torch.cuda.Event]]) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = function(*arguments, **options)
        end.record()
        events.append((start, end))
        return result

    return timed


def kernel_class(name: str) -> str:
    """What a kernel does, by its name: a key of the classes, or "other"."""
    return next((each for each, pattern in _CLASSES.items() if re.search(pattern, name.lower())), _OTHER)


def report(parts: Mapping[str, float], kernels: Iterable[Kernel], wall_s: float) -> Iterator[str]:
    """Lines of text: each part's and each class's time and share of `wall_s`, the time without a kernel, the costliest
    kernels.

    Args:
        parts: seconds, from `time_parts`.
        wall_s: seconds that the same call takes without a profiler.
    """
    kernels = list(kernels)
    yield f"{wall_s:.3f} s, {len(kernels)} kernels"
    for name, seconds in [*parts.items(), ("the rest", wall_s - sum(parts.values()))]:
        yield f"{1000 * seconds:9.1f} ms {seconds / wall_s:6.1%}            {name}"
    rows = sorted(_sums(kernels, lambda each: kernel_class(each.name)), key=lambda row: -row[1])
    for name, seconds, number in [*rows, ("no kernel runs", max(wall_s - busy_s(kernels), 0.0), 0)]:
        yield f"{1000 * seconds:9.1f} ms {seconds / wall_s:6.1%} {number:7d} x  {name}"
    yield f"the {NUM_KERNELS} costliest kernels"
    rows = sorted(_sums(kernels, lambda each: each.name), key=lambda row: -row[1])
    for name, seconds, number in rows[:NUM_KERNELS]:
        yield f"{1000 * seconds:9.1f} ms {seconds / wall_s:6.1%} {number:7d} x  {name[:_NAME_LENGTH]}"


def busy_s(kernels: Iterable[Kernel]) -> float:
    """Seconds in which at least one kernel runs."""
    busy, until = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda each: each.start_us):
        busy += max(kernel.end_us - max(kernel.start_us, until), 0.0)
        until = max(until, kernel.end_us)
    return busy / 1e6


def _sums(kernels: Iterable[Kernel], key: Callable[[Kernel], str]) -> list[tuple[str, float, int]]:
    """Key, seconds and number of the kernels of each key."""
    grouped = defaultdict(list)
    for kernel in kernels:
        grouped[key(kernel)].append((kernel.end_us - kernel.start_us) / 1e6)
    return [(name, sum(seconds), len(seconds)) for name, seconds in grouped.items()]
