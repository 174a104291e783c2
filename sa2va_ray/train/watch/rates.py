"""Rates of a run, its waiting times and the time left. All ranks count; they exchange numbers when asked.

Rates and the data wait are of the steps since they were asked for last; the share of checkpoints and the peak memory of
the time since the run was started last.
"""

import resource
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from sa2va_ray.train.plan.flops import FlopCounts
from sa2va_ray.train.step import MicroBatch, StepResult

_STEPS_OF_MEDIAN = 50


@dataclass(frozen=True)
class StepTiming:
    """Seconds that this rank waited for data, and then spent on the step."""

    data_wait_s: float
    step_s: float


@dataclass
class _Lap:
    """Sums since the last line. Samples and tokens are of all ranks, seconds and FLOPs of this one."""

    num_samples: int = 0
    num_tokens: int = 0
    flops: float = 0.0
    data_wait_s: float = 0.0
    seconds: float = 0.0


class RateMeter:
    """Counts steps and pauses."""

    def __init__(self, num_steps: int, flop_counts: FlopCounts | None, peak: float | None, device: torch.device):
        """
        Args:
            num_steps: of the whole run.
            flop_counts: of the model; without them there is no MFU.
            peak: FLOP/s that a device could do; without it there is no MFU.
        """
        self._num_steps, self._device, self._peak = num_steps, device, peak
        self._flop_counts = flop_counts if peak else None
        self._lap = _Lap()
        self._recent_s: deque[float] = deque(maxlen=_STEPS_OF_MEDIAN)
        self._num_done = 0
        self._stepping_s = self._checkpoint_s = self._validation_s = 0.0

    def step(self, result: StepResult, timing: StepTiming, micro_batches: Sequence[MicroBatch]) -> None:
        seconds = timing.data_wait_s + timing.step_s
        self._recent_s.append(seconds)
        self._stepping_s += seconds
        self._num_done += 1
        lap = self._lap
        lap.num_samples += result.num_samples
        lap.num_tokens += result.num_tokens
        if self._flop_counts:
            lap.flops += sum(self._flop_counts.of_batch(each.batch) for each in micro_batches if each.batch)
        lap.data_wait_s += timing.data_wait_s
        lap.seconds += seconds

    def checkpoint(self, seconds: float) -> None:
        """Counts a pause for a checkpoint."""
        self._checkpoint_s += seconds

    def validation(self, seconds: float) -> None:
        """Counts a pause for a validation."""
        self._validation_s += seconds

    def measure(self, step: int) -> dict[str, float]:
        """Metrics by name after step number `step`; all ranks must ask for them together and get the same, but for
        their own clocks. `throughput/mfu` is missing where the device's peak is not known."""
        lap, self._lap = self._lap, _Lap()
        flops, wait_shares, peaks_gib = self._of_ranks(
            [lap.flops, lap.data_wait_s / lap.seconds, _peak_memory_gib(self._device)]
        )
        pauses_s = self._checkpoint_s + self._validation_s
        # The median, since the first step takes much longer than the rest.
        step_s = statistics.median(self._recent_s) + pauses_s / self._num_done
        metrics = {
            "throughput/samples_per_s": lap.num_samples / lap.seconds,
            "throughput/tokens_per_s": lap.num_tokens / lap.seconds,
            "memory/peak_gib": max(peaks_gib),
            "time/data_wait_share": max(wait_shares),  # the rank that waits longest holds the others up
            "time/checkpoint_share": self._checkpoint_s / (self._stepping_s + pauses_s),
            "time/left_s": (self._num_steps - step) * step_s,
        }
        if self._flop_counts and self._peak:
            metrics["throughput/mfu"] = sum(flops) / (len(flops) * lap.seconds * self._peak)
        return metrics

    def _of_ranks(self, values: list[float]) -> list[list[float]]:
        """For each value, the list of it over the ranks."""
        table = torch.zeros(dist.get_world_size(), len(values), dtype=torch.float64, device=self._device)
        table[dist.get_rank()] = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(table)
        return table.T.tolist()


def _peak_memory_gib(device: torch.device) -> float:
    """Most that tensors took on the GPU, or that this process took of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts it in KiB
