"""All that a worker trains with: the engine, the plan of the epochs, and where in it the run stands."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import SampleIndex, Undecodable, preprocess
from sa2va_ray.models.build import PRECISIONS, build_model, weights_sha256
from sa2va_ray.models.checkpoint import MODEL, TrainState, shard_files
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine import build_engine, choose_precision
from sa2va_ray.train.flops import FlopCounts, count_flops
from sa2va_ray.train.position import Position
from sa2va_ray.train.resume import ResumePoint, find_resume_point
from sa2va_ray.train.step import AgreedError
from sa2va_ray.train.zero_state import restore


@dataclass(frozen=True)
class Origin:
    """What the run is made from; goes into every checkpoint."""

    base_sha256: str
    data_sha256: str
    git_commit: str


@dataclass
class Session:
    """Attributes:
    engine: DeepSpeed's.
    plans: of all epochs, as this rank sees them.
    filler: a batch to run where this rank has none.
    """

    config: TrainConfig
    engine: Any  # deepspeed.DeepSpeedEngine, which is not typed
    processor: Sa2VAProcessor
    plans: list[EpochPlan]
    position: Position
    filler: Batch
    precision: str
    flop_counts: FlopCounts | None
    origin: Origin

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        return sum(plan.num_steps for plan in self.plans)

    def state(self, metrics: dict[str, float]) -> TrainState:
        """What a checkpoint says of itself."""
        return TrainState(
            **self.position.fields_of_state(),
            num_steps=self.num_steps,
            num_workers=dist.get_world_size(),
            seed=self.config.seed,
            precision=self.precision,
            metrics=metrics,
            base_sha256=self.origin.base_sha256,
            data_sha256=self.origin.data_sha256,
            git_commit=self.origin.git_commit,
        )


def open_session(config: TrainConfig, data_sha256: str, git_commit: str) -> Session:
    """Builds the model, or takes the run's newest checkpoint up. Every rank calls it.

    Raises:
        AgreedError: a checkpoint that does not belong to this config; no sample can be decoded.
    """
    torch.manual_seed(config.seed)  # of the adapters' first weights
    precision = choose_precision(config)
    model, processor = build_model(config.model, PRECISIONS[precision])
    origin = Origin(weights_sha256(model), data_sha256, git_commit)
    make_trainable(model, processor, config.model.trainable)
    flop_counts = count_flops(model) if config.use_gpu else None  # CPUs have no peak that it could be held against
    with find_resume_point(config, data_sha256) as point:
        if point:
            _load_weights(model, point, origin.base_sha256)
        engine = build_engine(model, config, precision)
        if point:
            restore(engine, point.reader(), point.state.step)
    return Session(
        config=config,
        engine=engine,
        processor=processor,
        plans=plan_epochs(config, dist.get_rank(), dist.get_world_size()),
        position=Position.of(point.state) if point else Position(),
        filler=_filler(config, processor),
        precision=precision,
        flop_counts=flop_counts,
        origin=origin,
    )


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
            micro_batch_size=config.micro_batch_size,
            rank=rank,
            world_size=world_size,
        )
        for epoch in range(config.num_epochs)
    ]


def _load_weights(model: torch.nn.Module, point: ResumePoint, base_sha256: str) -> None:
    if point.state.base_sha256 != base_sha256:
        raise AgreedError(
            f"The run was trained on a base with SHA-256 {point.state.base_sha256[:12]}, this machine builds "
            f"{base_sha256[:12]}. Use the base, and the versions of torch and tokenizers, that the run used."
        )
    for file in shard_files(point.folder, MODEL):
        model.load_state_dict(load_file(file), strict=False)  # the rest is frozen, and checked by its hash


def _filler(config: TrainConfig, processor) -> Batch:
    """A sample to run where a rank has none; any that can be decoded."""
    samples = SampleIndex(config.data_uri, "train")
    for index in range(len(samples)):
        try:
            return collate([preprocess(samples[index], config.pipeline, processor, np.random.default_rng(0))])
        except Undecodable:
            continue
    raise AgreedError("No sample of the training split can be decoded. Prepare the data set again.")
