"""What becomes of a run that does not fit into a GPU after all.

The plan of its memory is an estimate. The worker whose GPU is full notes in the run's folder which micro batch that
was, and fails, since others may wait for it: Ray starts them all again. With `micro_batch_size=auto` they then halve
it, which changes neither the global batch nor the result; a size that was given ends the run, with what to do. A GPU
that is full before there is a batch is noted nowhere: Ray tries again, in case a process that held it was just ending.

A run that is started again by hand begins with what fits, where its plan is the same.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.collectives import from_rank_0
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.errors import RunStoppedError

NOTE = "did_not_fit.json"
"""In the run's folder."""
_MEMORY_DEPENDS_ON = {
    "data_uri",
    "model",
    "pipeline",
    "loss",
    "precision",
    "strategy",
    "num_workers",
    "global_batch_size",
    "micro_batch_size",
    "activation_checkpointing",
    "compile_layers",
    "validation",
}
"""Fields of the config, `num_workers` as many as there were: fewer hold larger shares. A note of other values says
nothing of this run."""
_ADVICE = " If reserved"  # in CUDA's message, on settings of torch
_OTHERS = (
    "a strategy that shards more (zero3, zero3_offload); or another process holds a part of the card, which nvidia-smi "
    "shows."
)


def keep_note_of(planned: TrainConfig, may_halve: bool) -> None:
    """Called by the driver before workers start: deletes what an earlier start noted, unless that had the same plan and
    half of the micro batch may fit.

    Args:
        planned: with the micro batch of the plan.
        may_halve: `micro_batch_size` is `auto`.
    """
    if (note := _read_note(planned)) is None:
        return
    size = note["micro_batch_size"]
    if may_halve and size > 1 and note.get("planned") == _settings(planned):
        LOGGER.warning(
            "an earlier start of this run found that micro batches of %d do not fit. To try them again, say "
            "micro_batch_size=%d.",
            *(size, size),
        )
    else:
        storage.delete_files(storage.join(planned.runs_uri, planned.name), [NOTE])


@contextmanager
def full_memory_noted(config: TrainConfig, planned: TrainConfig) -> Iterator[None]:
    """For what runs micro batches.

    Args:
        planned: the config before `config_that_fits`.

    Raises:
        UserError: CUDA ran out of memory in what was done here.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        size = config.samples_of_a_pass
        at_work = planned.model_copy(update={"num_workers": dist.get_world_size()})
        note = {"micro_batch_size": size, "message": _message(error), "planned": _settings(at_work)}
        storage.write_bytes(_note_uri(config), json.dumps(note).encode())
        raise UserError(f"{_what_happened(note)} {_cure(size)}") from error


@contextmanager
def full_memory_told(config: TrainConfig) -> Iterator[None]:
    """For what builds the model and all else that is there before the first batch.

    Raises:
        UserError: CUDA ran out of memory in what was done here.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The model does not fit into a GPU with strategy={config.strategy}: {_message(error)} What helps: "
            f"{_OTHERS}"
        ) from error


def config_that_fits(config: TrainConfig, may_halve: bool) -> TrainConfig:
    """The config, with half of the micro batch that did not fit before the workers were started again. Every rank calls
    it.

    Args:
        may_halve: `micro_batch_size` was `auto`.

    Raises:
        RunStoppedError: it may not, or one sample did not fit.
    """
    note = from_rank_0(lambda: _read_note(config))
    if note is None:
        return config
    size = note["micro_batch_size"]
    if not may_halve or size == 1:
        raise RunStoppedError(f"{_what_happened(note)} {_cure(size)}")
    LOGGER.warning("%s They hold %d now; the global batch stays.", _what_happened(note), size // 2)
    return config.model_copy(update={"micro_batch_size": size // 2})


def _read_note(config: TrainConfig) -> dict[str, Any] | None:
    uri = _note_uri(config)
    return json.loads(storage.read_bytes(uri)) if storage.exists(uri) else None


def _settings(planned: TrainConfig) -> dict[str, Any]:
    values = planned.model_dump(mode="json")
    return {name: values[name] for name in _MEMORY_DEPENDS_ON}


def _note_uri(config: TrainConfig) -> str:
    return storage.join(config.runs_uri, config.name, NOTE)


def _message(error: torch.OutOfMemoryError) -> str:
    return str(error).partition(_ADVICE)[0]


def _what_happened(note: dict[str, Any]) -> str:
    return f"Micro batches of {note['micro_batch_size']} do not fit into a GPU: {note['message']}"


def _cure(size: int) -> str:
    smaller = f"micro_batch_size={size // 2} or auto (the result stays the same), " if size > 1 else ""
    return f"What helps: {smaller}activation_checkpointing=true, {_OTHERS}"
