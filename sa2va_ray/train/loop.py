"""What each training worker runs."""

import ray.train
import torch

from sa2va_ray import storage
from sa2va_ray.data.batch import Batch
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import SampleIndex, stream_steps
from sa2va_ray.models.build import PRECISIONS, build_model, weights_sha256
from sa2va_ray.models.checkpoint import TrainState
from sa2va_ray.models.lora import count_trainable, make_trainable
from sa2va_ray.telemetry import LOGGER, configure_logging
from sa2va_ray.train.checkpoint import save_checkpoint
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine import build_engine, choose_precision
from sa2va_ray.train.report import Reporter
from sa2va_ray.train.schedule import learning_rate
from sa2va_ray.train.step import train_step


def train_loop_per_worker(config: TrainConfig, data_sha256: str, git_commit: str) -> None:
    """Trains for `config.num_epochs`, saves checkpoints, and checks that every sample was seen.

    Raises:
        RuntimeError: the samples of an epoch, summed over workers, are not those of the data set.
    """
    configure_logging()
    if not config.use_gpu:
        # torch takes all cores of the machine in each worker; their threads would wait for one another.
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    # Points and dropout: each rank draws its own.
    torch.manual_seed(config.seed + ray.train.get_context().get_world_rank())
    precision = choose_precision(config)
    model, processor = build_model(config.model, PRECISIONS[precision])
    base_sha256 = weights_sha256(model)
    make_trainable(model, processor, config.model.trainable)
    plans = _plan_epochs(config)
    num_steps = sum(plan.num_steps for plan in plans)
    engine = build_engine(model, config, precision)
    reporter = Reporter(storage.join(config.runs_uri, config.name), num_steps, config.log_every_steps)
    if engine.global_rank == 0:
        _log_start(config, engine, plans, precision)

    step, filler = 0, None
    for plan in plans:
        seen_before = reporter.samples_seen
        for micro_batches in stream_steps(config.data_uri, plan, config.pipeline, processor):
            filler = filler or _first(micro_batches)
            lr = learning_rate(step, num_steps, config.optim)
            result = train_step(engine, micro_batches, filler, config.loss, lr)
            step += 1
            metrics = reporter.record(step, result, lr)
            if step % config.save_every_steps == 0 or step == num_steps:
                state = TrainState(
                    step=step,
                    epoch=plan.epoch,
                    samples_seen=reporter.samples_seen,
                    seed=config.seed,
                    precision=precision,
                    metrics=metrics,
                    base_sha256=base_sha256,
                    data_sha256=data_sha256,
                    git_commit=git_commit,
                )
                save_checkpoint(engine, state, config)
                reporter.upload()
        _check_samples(plan, reporter.samples_seen - seen_before)


def _plan_epochs(config: TrainConfig) -> list[EpochPlan]:
    num_samples = len(SampleIndex(config.data_uri, "train"))
    context = ray.train.get_context()
    return [
        EpochPlan(
            num_samples=num_samples,
            repeats=config.repeats,
            seed=config.seed,
            epoch=epoch,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.micro_batch_size,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
        )
        for epoch in range(config.num_epochs)
    ]


def _first(micro_batches: list[Batch | None]) -> Batch:
    """A batch to stand in where this rank has none later; in the first step every rank has one."""
    assert micro_batches[0] is not None, "TrainConfig gives every worker a share of a full step"
    return micro_batches[0]


def _check_samples(plan: EpochPlan, seen: int) -> None:
    if seen != plan.samples_per_epoch:
        raise RuntimeError(
            f"Epoch {plan.epoch} trained on {seen} samples over all workers; {plan.num_samples} samples x "
            f"{plan.repeats} repeats are {plan.samples_per_epoch}. The workers did not share the data set as planned."
        )
    LOGGER.info("epoch %d: %d samples seen over %d workers, as planned", plan.epoch, seen, plan.world_size)


def _log_start(config: TrainConfig, engine, plans: list[EpochPlan], precision: str) -> None:
    groups = ", ".join(f"{group} {count:,}" for group, count in count_trainable(engine.module).items())
    total = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in engine.module.parameters())
    LOGGER.info("%s parameters in %s; trained: %s", f"{total:,}", precision, groups)
    LOGGER.info(
        "%d samples x %d repeats x %d epochs = %d steps of %d samples: %d workers x %d micro batch x %d accumulated",
        plans[0].num_samples,
        config.repeats,
        len(plans),
        sum(plan.num_steps for plan in plans),
        config.global_batch_size,
        config.num_workers,
        config.micro_batch_size,
        config.gradient_accumulation_steps(),
    )
