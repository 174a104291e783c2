"""Warnings of runs that go on and lead nowhere: groups that do not learn, no [SEG], overfitting, a loss that stays.

Each is one that cost somebody days: a fine-tuning of 11.5 hours went through a path without gradients, an adapter was
trained for weeks without ever saying [SEG].
"""

import statistics
from collections.abc import Callable, Mapping
from itertools import pairwise

from sa2va_ray.models.checkpoint import LEAST_SEG_SHARE, is_silent
from sa2va_ray.models.parts import needs_masks
from sa2va_ray.train.config import OptimConfig, TrainConfig
from sa2va_ray.train.engine.group_state import GroupState
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.watch import advice

WARN_AFTER_STEPS = 10
FAIL_AFTER_STEPS = 20
CHECK_EVERY_STEPS = 100

_FALLS_IN_A_ROW = 3
_LOSS_WINDOW_STEPS = 50
_ROUNDING = 1e-7  # of a second moment, relative, in one step; a usual gradient adds 1e-3

Warn = Callable[[int, str], None]
"""Takes a step and a message."""


class _Once:
    """Warns when a condition comes up, and again only after it has gone away."""

    def __init__(self, warn: Warn):
        self._warn = warn
        self._active: set[str] = set()

    def __call__(self, condition: str, holds: bool, step: int, message: str) -> None:
        if holds and condition not in self._active:
            self._warn(step, message)
        (self._active.add if holds else self._active.discard)(condition)


class HealthMonitor:
    """All monitors together. Every rank calls it with the same values, so that all of them end together where it
    raises."""

    def __init__(
        self, config: TrainConfig, num_steps: int, start_step: int, states: Mapping[str, GroupState], warn: Warn
    ):
        """
        Args:
            num_steps: of the whole run.
            start_step: steps that were done before this start of it.
            states: of the groups at this start.
        """
        self._groups = GroupMonitor(config.optim.betas[1], num_steps, start_step, states, warn)
        self._validation = ValidationMonitor(warn)
        self._loss = LossMonitor(config.optim, num_steps, warn) if start_step == 0 else None

    def after_step(self, step: int, losses: Mapping[str, float]) -> None:
        """Counts a step. `losses`: its `loss`, and the parts `loss_language` and so on."""
        self._groups.after_step(losses)
        self._validation.after_step(losses)
        if self._loss:
            self._loss.after_step(step, losses)

    def is_check_due(self, step: int) -> bool:
        """Whether `check` is to be called after this step."""
        return self._groups.is_check_due(step)

    def check(self, step: int, states: Mapping[str, GroupState]) -> None:
        """Checks the groups by their present states.

        Raises:
            RunStoppedError: one has had no gradient in any of the first 20 steps of this start.
        """
        self._groups.check(step, states)

    def after_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Checks a validation. `metrics` has `val/seg_share` and `val/dice`."""
        self._validation.after_validation(step, metrics)


class GroupMonitor:
    """Warns of a trained group without gradient or movement, and ends a run in which one never had a gradient."""

    def __init__(self, beta2: float, num_steps: int, start_step: int, states: Mapping[str, GroupState], warn: Warn):
        self._beta2, self._num_steps, self._start_step = beta2, num_steps, start_step
        self._first_states = self._last_states = states
        self._last_step = start_step
        self._never_had_gradient = set(states)
        self._num_masked_steps = 0  # since the last check
        self._warn_once = _Once(warn)

    def after_step(self, losses: Mapping[str, float]) -> None:
        self._num_masked_steps += any(
            value > 0 for name, value in losses.items() if name not in ("loss", "loss_language")
        )

    def is_check_due(self, step: int) -> bool:
        done = step - self._start_step
        return done in (WARN_AFTER_STEPS, FAIL_AFTER_STEPS) or done % CHECK_EVERY_STEPS == 0 or step == self._num_steps

    def check(self, step: int, states: Mapping[str, GroupState]) -> None:
        num_steps = step - self._last_step
        judged = [group for group in states if self._num_masked_steps or not needs_masks(group)]
        without_gradient = {group for group in judged if not self._had_gradient(group, states, num_steps)}
        self._never_had_gradient &= without_gradient
        if step - self._start_step == FAIL_AFTER_STEPS and self._never_had_gradient:
            raise RunStoppedError(advice.no_gradient(self._never_had_gradient, FAIL_AFTER_STEPS))
        for group in judged:
            dead, done = group in without_gradient, step - self._start_step
            self._warn_once(f"gradient {group}", dead, step, advice.no_gradient({group}, num_steps))
            unmoved = states[group].checksum == self._first_states[group].checksum
            self._warn_once(f"moved {group}", unmoved, step, advice.not_moved(group, done))
        self._warn_once("masks", not self._num_masked_steps, step, advice.no_masks(num_steps))
        self._last_step, self._last_states, self._num_masked_steps = step, states, 0

    def _had_gradient(self, group: str, states: Mapping[str, GroupState], num_steps: int) -> bool:
        """Whether second moments grew beyond their decay, which only a gradient can make them do."""
        decayed = self._last_states[group].squares * self._beta2**num_steps
        return states[group].squares > decayed * (1 + _ROUNDING * num_steps)


class ValidationMonitor:
    """Warns of missing [SEG], of masks without a right pixel, and of overfitting."""

    def __init__(self, warn: Warn):
        self._warn_once = _Once(warn)
        self._losses: list[float] = []  # since the last validation
        self._history: list[tuple[float, float]] = []  # val/dice, mean training loss before it

    def after_step(self, losses: Mapping[str, float]) -> None:
        self._losses.append(losses["loss"])

    def after_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        seg_share = metrics["val/seg_share"]
        self._warn_once("seg", seg_share < LEAST_SEG_SHARE, step, advice.no_seg(seg_share, is_silent(metrics)))
        no_overlap = metrics["val/dice"] == 0 and seg_share >= LEAST_SEG_SHARE
        self._warn_once("overlap", no_overlap, step, advice.no_overlap())
        self._history.append((metrics["val/dice"], statistics.fmean(self._losses)))
        self._losses = []
        dices, losses = zip(*self._history[-_FALLS_IN_A_ROW - 1 :], strict=True)
        falls = len(dices) > _FALLS_IN_A_ROW and all(later < earlier for earlier, later in pairwise(dices))
        self._warn_once("overfitting", falls and losses[-1] < losses[0], step, advice.overfitting(dices, losses))


class LossMonitor:
    """Warns of a loss that is not lower than at the start of the run. For runs from their beginning only: one that
    goes on from a checkpoint has no start to compare with."""

    def __init__(self, config: OptimConfig, num_steps: int, warn: Warn):
        self._warn_once = _Once(warn)
        self._lr = config.lr
        self._window_steps = min(_LOSS_WINDOW_STEPS, max(10, num_steps // 10))
        self._first_step = int(config.warmup_ratio * num_steps) + 2 * self._window_steps
        self._window: list[Mapping[str, float]] = []
        self._first_window: list[Mapping[str, float]] = []

    def after_step(self, step: int, losses: Mapping[str, float]) -> None:
        self._window.append(losses)
        if len(self._window) < self._window_steps:
            return
        window, self._window = self._window, []
        self._first_window = self._first_window or window
        if step >= self._first_step:
            before = [each["loss"] for each in self._first_window]
            now = [each["loss"] for each in window]
            noise = statistics.stdev(now) * (2 / len(now)) ** 0.5  # of the difference of two means
            stays = statistics.fmean(before) - statistics.fmean(now) < 2 * noise
            self._warn_once("loss", stays, step, advice.loss_stays(step, self._first_window, window, self._lr))
