"""Which checkpoint of a run is exported, and why."""

from dataclasses import dataclass
from typing import Literal

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import MANIFEST, DamagedError
from sa2va_ray.models.checkpoint import (
    STATE_FILE,
    StoredCheckpoint,
    find_checkpoint,
    is_silent,
    ranked_checkpoints,
    read_stored_checkpoint,
    read_verified_checkpoint,
    sound_checkpoints,
)
from sa2va_ray.telemetry import LOGGER

_METRIC = "val/dice"  # the default of a run's `best_metric`


@dataclass(frozen=True)
class ChosenCheckpoint:
    """Attributes:
    reason: what it is among the run's, without a path: for log, manifest and card.
    """

    uri: str
    reason: str


def choose_checkpoint(uri: str, which: int | Literal["best", "newest"]) -> ChosenCheckpoint:
    """The checkpoint that `which` names of a run's folder; a checkpoint's own folder stands for itself.

    Raises:
        UserError: there is none that is meant and sound; the steps that there are, are listed.
    """
    if any(storage.exists(storage.join(uri, name)) for name in (STATE_FILE, MANIFEST)):
        if which != "newest":
            raise UserError(f"{uri} is one checkpoint: leave out which={which}, or give the run's folder above it.")
        return ChosenCheckpoint(uri, "the one that was named")
    if which == "newest":
        return ChosenCheckpoint(find_checkpoint(uri), "the newest sound one of its run")
    found = list(sound_checkpoints(uri, read_stored_checkpoint))[::-1]
    if not found:
        find_checkpoint(uri)  # tells that there is none
    return _best(uri, found) if which == "best" else _of_step(uri, found, which)


def _best(uri: str, found: list[StoredCheckpoint]) -> ChosenCheckpoint:
    metric = found[-1].settings.get("best_metric", _METRIC)
    for saved in ranked_checkpoints(found, metric):
        try:
            read_verified_checkpoint(saved.uri)
        except DamagedError as error:
            LOGGER.warning("checkpoint %s is passed over: %s", saved.uri, error)
            continue
        state = saved.state
        if is_silent(state.metrics):
            LOGGER.warning(
                "WARNING: the best checkpoint answers with a mask for %.0f %% of what is on the validation images, and "
                "has those right that have nothing. Train for longer.",
                100 * state.metrics["val/seg_share"],
            )
        measured = f", measured at step {state.metrics['val/step']:.0f}" if "val/step" in state.metrics else ""
        reason = f"the best of {len(found)} of its run by {metric}, {state.metrics[metric]:.4f}{measured}"
        return ChosenCheckpoint(saved.uri, reason)
    raise UserError(
        f"No checkpoint of {uri} has the run's best_metric {metric}: the run did not validate before it saved them "
        f"(validation.every_steps). Take which=newest, or one of its steps: {_steps(found)}."
    )


def _of_step(uri: str, found: list[StoredCheckpoint], step: int) -> ChosenCheckpoint:
    for saved in found:
        if saved.state.step == step:
            return ChosenCheckpoint(saved.uri, f"step {step} of its run, which was named")
    raise UserError(f"{uri} has no checkpoint of step {step}. It has those of the steps {_steps(found)}.")


def _steps(found: list[StoredCheckpoint]) -> str:
    return ", ".join(str(saved.state.step) for saved in found)
