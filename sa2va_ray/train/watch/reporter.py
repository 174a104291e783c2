"""What is reported of a run while it goes on: a log line, curves, warnings, `run.json`, the page of it. Rank 0 writes
them, with the numbers of all ranks.

Nothing here can hold the run up: what goes over a network goes in the background, and is sent again later where the
other side does not answer.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sa2va_ray import storage
from sa2va_ray.metrics import VALIDATION_METRICS
from sa2va_ray.telemetry import LOGGER, StartTimes, log_progress
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.plan.flops import FlopCounts, device_peak
from sa2va_ray.train.step import MicroBatch, StepResult
from sa2va_ray.train.validation.validate import ValidationResult
from sa2va_ray.train.watch.history import read_history
from sa2va_ray.train.watch.page.record import RunRecord, read_pictures, to_pictures
from sa2va_ray.train.watch.page.run_page import WRITE_EVERY_S
from sa2va_ray.train.watch.page.state import RunState
from sa2va_ray.train.watch.rates import RateMeter, StepTiming
from sa2va_ray.train.watch.run_facts import add_earlier_attempts, write_run_facts
from sa2va_ray.train.watch.sender import Sender
from sa2va_ray.train.watch.trackers.registry import build_trackers
from sa2va_ray.train.watch.trackers.tracker import TrackedRun

_SEND_EVERY_S = 60.0
_LAST_SEND_S = 60.0
_OF = "val/dice_of/"


class Reporter:
    """Counts every step, and reports every `log_every_steps`. To be closed, also when the run fails."""

    def __init__(
        self,
        config: TrainConfig,
        num_steps: int,
        start_step: int,
        flop_counts: FlopCounts | None,
        facts: dict[str, Any],
        device: torch.device,
    ):
        """
        Args:
            num_steps: of the whole run.
            start_step: steps that were done before this start of it.
            flop_counts: from `count_flops`; without them there is no MFU.
            facts: from `collect_run_facts`.

        Raises:
            UserError: a tracker of the config is not installed.
        """
        self._every_steps, self._num_steps = config.log_every_steps, num_steps
        self._meter = RateMeter(num_steps, flop_counts, device_peak(device, facts["precision"]), device)
        self._rates: dict[str, float] = {}
        self._num_skipped = 0
        self._output = _Output(config, start_step, facts) if dist.get_rank() == 0 else None

    def started(self, times: StartTimes) -> None:
        """Says how long the first step was waited for."""
        if self._output:
            LOGGER.info("the first step is done %s after the workers had begun", times)

    def record(
        self,
        step: int,
        result: StepResult,
        learning_rate: float,
        timing: StepTiming,
        micro_batches: Sequence[MicroBatch],
    ) -> dict[str, float]:
        """Counts step number `step` (from 1). Every rank calls it after every step.

        Returns:
            the step's metrics by name, and the rates of the last line.
        """
        self._meter.step(result, timing, micro_batches)
        self._num_skipped += result.num_skipped
        metrics = {f"train/{name}": value for name, value in result.losses.items()}
        metrics["train/lr"] = learning_rate
        metrics["train/grad_norm"] = result.grad_norm
        metrics["train/skipped_samples"] = float(self._num_skipped)
        if step % self._every_steps == 0 or step == self._num_steps:
            self._rates = self._meter.measure(step)
            if self._output:
                log_progress("train", step, self._num_steps, _line({**metrics, **self._rates}))
                self._output.curves(step, {**metrics, **self._rates})
        if self._output:
            self._output.count_skipped(result.num_skipped)
            self._output.show(RunState.TRAINING, step)
        return {**metrics, **self._rates}

    def saved(self, checkpoint_s: float) -> None:
        """Counts the seconds that training stood still for a checkpoint, and sends the curves up to it: a run that goes
        on from there draws only what comes after."""
        self._meter.checkpoint(checkpoint_s)
        if self._output:
            self._output.send()

    def validating(self, step: int) -> None:
        """Says that training pauses for a validation."""
        if self._output:
            LOGGER.info("validating after step %d; training waits for it", step)
            self._output.show(RunState.VALIDATING, step, at_once=True)

    def validation(self, step: int, result: ValidationResult, validation_s: float) -> dict[str, float]:
        """Reports a validation that took `validation_s`. Returns its metrics."""
        self._meter.validation(validation_s)
        if self._output:
            LOGGER.info("validation after step %d, %.0f s: %s", step, validation_s, _validation_line(result.metrics))
            self._output.curves(step, result.metrics)
            self._output.pictures(step, result.pictures)
            self._output.show(RunState.TRAINING, step, at_once=True)
        return result.metrics

    def warn(self, step: int, message: str) -> None:
        """Puts a warning into the log, the trackers and `run.json`."""
        if self._output:
            self._output.warn(step, message)

    def close(self) -> None:
        """Sends what is left, and gives up after two minutes. Nothing is reported afterwards."""
        output, self._output = self._output, None
        if output:
            output.close()


class _Output:
    """Rank 0's trackers and record of the run, and the threads that send them."""

    def __init__(self, config: TrainConfig, start_step: int, facts: dict[str, Any]):
        run_uri = storage.join(config.runs_uri, config.name)
        tags = {key: facts[key] for key in ("data_sha256", "base_sha256")}
        self._trackers = build_trackers(config.trackers, TrackedRun(config.name, run_uri, start_step, tags))
        self._record = RunRecord(
            run_uri, add_earlier_attempts(run_uri, facts), read_history(run_uri, start_step), read_pictures(run_uri)
        )
        self._record.set_state(RunState.TRAINING, start_step)
        write_run_facts(run_uri, self._record.facts)
        self._curves = Sender("curves", _SEND_EVERY_S, *(tracker.send for tracker in self._trackers))
        self._page = Sender("the run's page and facts", WRITE_EVERY_S, self._record.write)
        self._page.send()

    def curves(self, step: int, values: dict[str, float]) -> None:
        self._record.history.add(step, values)
        for tracker in self._trackers:
            tracker.scalars(step, values)
        self._curves.offer()

    def count_skipped(self, num_samples: int) -> None:
        for tracker in self._trackers:
            tracker.count_skipped(num_samples)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        self._record.pictures = to_pictures(pictures)
        for tracker in self._trackers:
            tracker.pictures(step, {f"val/{name}": picture for name, picture in pictures.items()})

    def warn(self, step: int, message: str) -> None:
        LOGGER.warning("step %d: %s", step, message)
        self._record.facts["warnings"].append({"step": step, "message": message})
        for tracker in self._trackers:
            tracker.text(step, "warnings", message)

    def show(self, state: RunState, step: int, at_once: bool = False) -> None:
        """On the run's page: `at_once`, or within `WRITE_EVERY_S`."""
        self._record.set_state(state, step)
        if at_once:
            self._page.send()
        else:
            self._page.offer()

    def close(self) -> None:
        self.send()
        self._page.wait(_LAST_SEND_S)
        if self._curves.wait(_LAST_SEND_S):
            for tracker in self._trackers:
                tracker.close()

    def send(self) -> None:
        """All that has been reported, in the background."""
        self._page.send()
        self._curves.send()


def _line(metrics: dict[str, float]) -> str:
    parts = ", ".join(
        f"{name.removeprefix('train/loss_')} {value:.4f}"
        for name, value in metrics.items()
        if name.startswith("train/loss_")
    )
    mfu = metrics.get("throughput/mfu")
    return " | ".join(
        [
            f"loss {metrics['train/loss']:.4f} ({parts})",
            f"lr {metrics['train/lr']:.2e}",
            f"grad norm {metrics['train/grad_norm']:.3g}",
            f"{metrics['throughput/samples_per_s']:.2f} samples/s",
            f"{metrics['throughput/tokens_per_s']:.0f} tokens/s",
            f"MFU {'-' if mfu is None else f'{mfu:.1%}'}",
            f"peak {metrics['memory/peak_gib']:.1f} GiB",
            f"data wait {metrics['time/data_wait_share']:.1%}",
            f"checkpoints {metrics['time/checkpoint_share']:.1%}",
            f"{timedelta(seconds=round(metrics['time/left_s']))} left",
        ]
    )


def _validation_line(metrics: dict[str, float]) -> str:
    scores = ", ".join(_with_interval(name, metrics) for name in VALIDATION_METRICS)
    alarms = metrics.get("val/false_alarm_share")
    told = "" if alarms is None else f", false alarms on {alarms:.0%} of the images without the object"
    own = [f"{name.removeprefix(_OF)} {value:.3f}" for name, value in metrics.items() if name.startswith(_OF)]
    phrases = f", dice of {', '.join(own)}" if own else ""
    return f"{scores}, [SEG] in {metrics['val/seg_share']:.0%}{told}{phrases}"


def _with_interval(name: str, metrics: dict[str, float]) -> str:
    value, low = metrics[f"val/{name}"], metrics.get(f"val/{name}_low")
    return f"{name} {value:.3f}" + ("" if low is None else f" ({low:.3f} to {metrics[f'val/{name}_high']:.3f})")
