"""What a worker trains with: the engine, the plan of the epochs, and where in it the run stands."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.ahead import one_ahead
from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import Undecodable, preprocess, stream_steps
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.models.build import (
    PRECISIONS,
    build_model,
    build_unfilled,
    read_architecture,
    weights_sha256,
)
from sa2va_ray.models.checkpoint import TrainState
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.models.trained_weights import load_tensors, load_trained_tensors
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import StartTimes
from sa2va_ray.train.checkpoints.changes import SettingChange
from sa2va_ray.train.checkpoints.lock import check_owner_together
from sa2va_ray.train.checkpoints.progress import RunProgress
from sa2va_ray.train.checkpoints.resume import ResumePoint, find_resume_point
from sa2va_ray.train.checkpoints.save import delete_local_remains
from sa2va_ray.train.collectives import from_rank_0
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import build_engine
from sa2va_ray.train.engine.zero_state import restore
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.plan.flops import FlopCounts, count_flops
from sa2va_ray.train.plan.sizes import ParameterGroup, count_groups
from sa2va_ray.train.precision import choose_precision


@dataclass(frozen=True)
class Origin:
    """What the run is made from. It goes into every checkpoint."""

    base_sha256: str
    data_sha256: str
    git_commit: str


@dataclass
class Session:
    """Attributes:
    engine: DeepSpeed's.
    plans: of all epochs, as this rank sees them.
    steps: micro batches of all steps that are left, one list for each.
    filler: a batch to run where this rank has none.
    parameters: of the model, by part.
    changes: settings that are not those of the checkpoint that the run went on from.
    validation: metrics of the run's newest one, and its step as `val/step`; empty before the first.
    start_times: where the time until the first step goes.
    """

    config: TrainConfig
    engine: Any  # deepspeed.DeepSpeedEngine, which is not typed
    processor: Sa2VAProcessor
    plans: list[EpochPlan]
    steps: Iterator[list[Batch | None]]
    progress: RunProgress
    filler: Batch
    precision: str
    parameters: Sequence[ParameterGroup]
    flop_counts: FlopCounts | None
    origin: Origin
    changes: list[SettingChange]
    lock_owner: str
    validation: dict[str, float]
    start_times: StartTimes

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return sum(plan.num_steps for plan in self.plans)

    def state(self, metrics: dict[str, float]) -> TrainState:
        """What a checkpoint says of itself. Its scores are those of the newest validation, which may be of weights some
        steps before."""
        return TrainState(
            **self.progress.state_fields(),
            num_steps=self.num_steps,
            num_workers=dist.get_world_size(),
            seed=self.config.seed,
            precision=self.precision,
            metrics={**metrics, **self.validation},
            base_sha256=self.origin.base_sha256,
            data_sha256=self.origin.data_sha256,
            git_commit=self.origin.git_commit,
        )


def open_session(config: TrainConfig, data_sha256: str, git_commit: str, lock_owner: str) -> Session:
    """Builds the model, or resumes the run at its newest checkpoint. Every rank calls it.

    Args:
        lock_owner: id of the job that holds the run's lock.

    Raises:
        RunStoppedError: another job has taken the run over; the data set is another one than the driver read; a
            checkpoint does not belong to this config; no sample can be decoded.
    """
    check_owner_together(storage.join(config.runs_uri, config.name), lock_owner)
    delete_local_remains(config)
    _check_data(config.data_uri, data_sha256)
    torch.manual_seed(config.seed)  # of the adapters' first weights
    precision, times = choose_precision(config), StartTimes()
    processor = Sa2VAProcessor(*read_architecture(config.model))
    with find_resume_point(config, data_sha256) as point, ThreadPoolExecutor(1) as hashing:
        times.lap("checkpoint")
        progress = RunProgress.from_state(point.state) if point else RunProgress()
        plans = plan_epochs(config, dist.get_rank(), dist.get_world_size())
        steps = _steps_ahead(config, plans[progress.epoch :], processor, progress.step_in_epoch)
        model, base_sha256 = _build_model(config, PRECISIONS[precision], hashing)
        times.lap("weights")
        make_trainable(model, processor, config.model.trainable)
        parameters = count_groups(model)
        flop_counts = count_flops(model) if config.use_gpu else None  # CPUs have no peak that it could be held against
        times.lap("adapters")
        if point:
            _check_precision(point, precision)
            _load_weights(model, point, from_rank_0(base_sha256))
        engine = build_engine(model, config, precision)
        if point:
            restore(engine, point.reader(), point.state.step)
        times.lap("engine")
        origin = Origin(from_rank_0(base_sha256), data_sha256, git_commit)
    return Session(
        config=config,
        engine=engine,
        processor=processor,
        plans=plans,
        steps=steps,
        progress=progress,
        filler=_filler(config, processor),
        precision=precision,
        parameters=parameters,
        flop_counts=flop_counts,
        origin=origin,
        changes=point.changes if point else [],
        lock_owner=lock_owner,
        validation={name: value for name, value in point.state.metrics.items() if name.startswith("val/")}
        if point
        else {},
        start_times=times,
    )


def _check_data(data_uri: str, data_sha256: str) -> None:
    """Workers that are started again after a failure would train on, and say it were, what the run began with."""
    if changed := from_rank_0(lambda: _change_of_data(data_uri, data_sha256)):
        raise RunStoppedError(changed)


def _change_of_data(data_uri: str, data_sha256: str) -> str | None:
    try:
        SampleIndex(data_uri, "train", data_sha256)
    except StorageError:
        raise  # it may answer at the next try
    except UserError as error:
        return str(error)
    return None


def _build_model(
    config: TrainConfig, precision: torch.dtype, hashing: Executor
) -> tuple[Sa2VAModel, Callable[[], str]]:
    """The model, and what waits on rank 0 for the SHA-256 of its weights, which are hashed beside all else. The engine
    sends rank 0's weights to all others, which need not read them: a host holds one copy, and not one for each GPU."""
    if dist.get_rank() != 0:
        return build_unfilled(config.model, precision), str
    num_threads = torch.get_num_threads()
    if config.use_gpu:  # Ray leaves each worker one thread, and the others wait: two read 1.5 times as fast as one
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, _ = build_model(config.model, precision)
    torch.set_num_threads(num_threads)
    return model, hashing.submit(weights_sha256, model.state_dict()).result


def _steps_ahead(
    config: TrainConfig, plans: list[EpochPlan], processor: Sa2VAProcessor, start_step: int
) -> Iterator[list[Batch | None]]:
    """This rank's micro batches of each step of these epochs, from `start_step` of the first on. The first step's are
    made from now on, others while the step before is trained."""
    steps = stream_steps(config.data_uri, plans, config.pipeline, processor, start_step)
    if config.use_gpu:
        steps = ([batch and batch.pinned() for batch in batches] for batches in steps)
    return one_ahead(steps)


def plan_epochs(config: TrainConfig, rank: int, world_size: int) -> list[EpochPlan]:
    """The plan of each epoch, as one rank sees it."""
    num_samples = len(SampleIndex(config.data_uri, "train"))
    return [
        EpochPlan(
            num_samples=num_samples,
            repeats=config.repeats,
            seed=config.seed,
            epoch=epoch,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.samples_of_a_pass,
            rank=rank,
            world_size=world_size,
        )
        for epoch in range(config.num_epochs)
    ]


def _check_precision(point: ResumePoint, precision: str) -> None:
    if point.state.precision != precision:
        raise RunStoppedError(
            f"The run was trained in {point.state.precision}, precision=auto gives {precision} on this machine. Set "
            f"precision={point.state.precision} to go on."
        )


def _load_weights(model: torch.nn.Module, point: ResumePoint, base_sha256: str) -> None:
    if point.state.base_sha256 != base_sha256:
        raise RunStoppedError(
            f"The run was trained on a base with SHA-256 {point.state.base_sha256[:12]}, this machine builds "
            f"{base_sha256[:12]}. Use the base, and the versions of torch and tokenizers, that the run used."
        )
    try:
        load_trained_tensors(model, load_tensors(point.folder), "The run's checkpoint")
    except UserError as error:
        raise RunStoppedError(str(error)) from None


def _filler(config: TrainConfig, processor) -> Batch:
    """A sample to run where a rank has none; any that can be decoded."""
    samples = SampleIndex(config.data_uri, "train")
    for index in range(len(samples)):
        try:
            return collate([preprocess(samples[index], config.pipeline, processor, np.random.default_rng(0))])
        except Undecodable:
            continue
    raise RunStoppedError("No sample of the training split can be decoded. Prepare the data set again.")
