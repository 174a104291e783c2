"""How far a run has got, and the check of its samples against the plan."""

from dataclasses import dataclass, field
from typing import Any

from sa2va_ray.data.order import EpochPlan
from sa2va_ray.models.checkpoint import TrainState
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.step import StepResult

_FIELDS = ("step", "epoch", "step_in_epoch", "missing_in_epoch", "samples_seen", "skipped_samples", "bad_ids")


@dataclass
class RunProgress:
    """How far the run has got, over all ranks. The fields are those of `TrainState`."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    missing_in_epoch: int = 0
    samples_seen: int = 0
    skipped_samples: int = 0
    bad_ids: list[str] = field(default_factory=list)

    @classmethod
    def from_state(cls, state: TrainState) -> "RunProgress":
        return cls(**{name: getattr(state, name) for name in _FIELDS})

    def state_fields(self) -> dict[str, Any]:
        """The fields of `TrainState` that it has, by name."""
        return {name: getattr(self, name) for name in _FIELDS}

    def advance(self, plan: EpochPlan, result: StepResult, config: TrainConfig) -> None:
        """Counts a step, and checks its samples against the plan. All ranks get the same numbers.

        Raises:
            RuntimeError: the workers trained on more samples than planned.
            RunStoppedError: more samples than allowed could not be decoded, or gave no finite loss.
        """
        planned = plan.step_size(self.step_in_epoch)
        self.missing_in_epoch += planned - result.num_samples - result.num_skipped
        self.skipped_samples += result.num_skipped
        self.samples_seen += result.num_samples
        self.bad_ids = [*self.bad_ids, *result.skipped_ids]  # a list of its own: a state keeps the one it was given
        self.step += 1
        self.step_in_epoch += 1
        if self.missing_in_epoch < 0:
            raise RuntimeError(
                f"Epoch {plan.epoch} had {-self.missing_in_epoch} samples more than the planned "
                f"{plan.samples_per_epoch}: the workers did not share the data set."
            )
        if self.missing_in_epoch > config.pipeline.max_bad_samples:
            raise RunStoppedError(
                f"{self.missing_in_epoch} samples could not be decoded (the log names them), pipeline.max_bad_samples "
                f"is {config.pipeline.max_bad_samples}. The data set is damaged: prepare it again, or raise the limit."
            )
        if result.num_skipped:
            LOGGER.warning("step %d: the loss is not finite on %s", self.step, ", ".join(result.skipped_ids))
        if self.skipped_samples > config.max_skipped_samples:
            raise RunStoppedError(
                f"{self.skipped_samples} samples were left out because the loss of their micro step was not finite, "
                f"max_skipped_samples is {config.max_skipped_samples}. Bad were {', '.join(self.bad_ids)}. Look at "
                "these in the data set's report, or lower optim.lr."
            )

    def end_epoch(self, plan: EpochPlan) -> None:
        """Tells how many samples the epoch had; the numbers are those of all ranks, so the first one says them."""
        seen = plan.samples_per_epoch - self.missing_in_epoch
        if plan.rank == 0:
            LOGGER.info("epoch %d: %d samples seen over %d workers, as planned", plan.epoch, seen, plan.world_size)
            if self.missing_in_epoch:
                LOGGER.warning("epoch %d: %d samples could not be decoded", plan.epoch, self.missing_in_epoch)
        self.epoch, self.step_in_epoch, self.missing_in_epoch = plan.epoch + 1, 0, 0
