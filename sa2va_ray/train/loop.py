"""What each training worker runs: for each step of the plan train, count, report; every so often validate and save."""

import time
from collections.abc import Iterator

import numpy as np
import ray.train
import torch

from sa2va_ray.data.order import EpochPlan
from sa2va_ray.interpreter import switch_threads_soon
from sa2va_ray.telemetry import Stopwatch, configure_logging
from sa2va_ray.train.checkpoints.save import save_checkpoint
from sa2va_ray.train.collectives import any_rank
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.group_state import group_states
from sa2va_ray.train.gpu_memory import config_that_fits, full_memory_noted, full_memory_told
from sa2va_ray.train.schedule import learning_rate
from sa2va_ray.train.session import Session, open_session
from sa2va_ray.train.step import MicroBatch, train_step
from sa2va_ray.train.validation.validate import validate
from sa2va_ray.train.watch.health import HealthMonitor
from sa2va_ray.train.watch.rates import StepTiming
from sa2va_ray.train.watch.reporter import Reporter
from sa2va_ray.train.watch.run_facts import collect_run_facts


def train_loop_per_worker(
    config: TrainConfig, data_sha256: str, git_commit: str, lock_owner: str, may_halve: bool
) -> None:
    """Trains to the end of `config.num_epochs` from the step that the run has reached.

    Args:
        may_halve: the micro batch, if it does not fit.

    Raises:
        RunStoppedError: see `config_that_fits`, `open_session`, `RunProgress.advance`, `train_step` and
            `HealthMonitor`.
    """
    configure_logging()
    switch_threads_soon()
    if not config.use_gpu:
        # torch takes all cores of the machine in each worker; their threads would wait for one another.
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    planned, config = config, config_that_fits(config, may_halve)
    with full_memory_told(config):
        session = open_session(config, data_sha256, git_commit, lock_owner)
    reporter = _open_reporter(session)
    try:
        with full_memory_noted(config, planned):
            _train(session, reporter)
    finally:
        reporter.close()


def _train(session: Session, reporter: Reporter) -> None:
    config, progress, num_steps = session.config, session.progress, session.num_steps
    states = group_states(session.engine, has_stepped=progress.step > 0)
    health = HealthMonitor(config, num_steps, progress.step, states, reporter.warn)
    save_at_notice = True  # once: the notice stays until the node goes
    first_step = progress.step + 1
    for plan in session.plans[progress.epoch :]:
        for micro_batches, wait_s in _steps(session, plan):
            watch = Stopwatch()
            lr = learning_rate(progress.step, num_steps, config.optim)
            result = train_step(session.engine, micro_batches, session.filler, config.loss, lr)
            progress.advance(plan, result, config)
            step, is_last = progress.step, progress.step == num_steps
            if step == first_step:
                session.start_times.lap("first step")
                reporter.started(session.start_times)
            metrics = reporter.record(step, result, lr, StepTiming(wait_s, watch.lap_s()), micro_batches)
            health.after_step(step, result.losses)
            if health.is_check_due(step):
                health.check(step, group_states(session.engine, has_stepped=True))
            if config.validation.every_steps and (is_last or step % config.validation.every_steps == 0):
                _validate(session, reporter, health)
            is_noticed = save_at_notice and _is_preempted(session)
            if is_last or is_noticed or step % config.save_every_steps == 0:
                watch.lap_s()
                save_checkpoint(session.engine, session.state(metrics), config, session.lock_owner)
                reporter.saved(watch.lap_s())
                save_at_notice = save_at_notice and not is_noticed
        progress.end_epoch(plan)


def _validate(session: Session, reporter: Reporter, health: HealthMonitor) -> None:
    watch, step = Stopwatch(), session.progress.step
    reporter.validating(step)
    result = validate(session.engine, session.processor, session.config, session.origin.data_sha256)
    metrics = reporter.validation(step, result, watch.lap_s())
    health.after_validation(step, metrics)
    session.validation = {**metrics, "val/step": float(step)}


def _open_reporter(session: Session) -> Reporter:
    facts = collect_run_facts(
        session.config,
        precision=session.precision,
        commit=session.origin.git_commit,
        data_sha256=session.origin.data_sha256,
        base_sha256=session.origin.base_sha256,
        parameters=session.parameters,
        num_steps=session.num_steps,
        step=session.progress.step,
        changes=session.changes,
    )
    device = session.engine.device
    return Reporter(session.config, session.num_steps, session.progress.step, session.flop_counts, facts, device)


def _steps(session: Session, plan: EpochPlan) -> Iterator[tuple[list[MicroBatch], float]]:
    """This rank's micro batches of each step that is left of the epoch, and the seconds that they were waited for."""
    for step in range(session.progress.step_in_epoch, plan.num_steps):
        start_s = time.perf_counter()
        batches = next(session.steps)
        seeds = _seeds(plan, step)
        yield (
            [MicroBatch(batch, seed) for batch, seed in zip(batches, seeds, strict=True)],
            time.perf_counter() - start_s,
        )


def _seeds(plan: EpochPlan, step: int) -> list[int]:
    """A seed for each micro batch, from the place of its first sample in the epoch: another number of workers, or a run
    that goes on from a checkpoint, draws the same points and the same dropout for the same micro batches. Where these
    hold more than one sample, another number of workers cuts them elsewhere, and draws anew."""
    positions = plan.positions(step)
    starts = np.cumsum([0, *plan.micro_batch_sizes(step)])[:-1]
    places = [int(positions[start]) if start < len(positions) else plan.samples_per_epoch for start in starts]
    return [int(np.random.SeedSequence([plan.seed, plan.epoch, each]).generate_state(1)[0]) for each in places]


def _is_preempted(session: Session) -> bool:
    """Whether the cluster has given notice that it takes a node away: time for one more checkpoint."""
    return any_rank(session.engine, ray.train.get_preemption_info() is not None)
