"""The driver side of a training run: checks and the plan first, then a Ray Train TorchTrainer."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from sa2va_ray import storage
from sa2va_ray.cluster.resources import check_cluster, check_paths, connect, decide_use_gpu, least_gpu_bytes
from sa2va_ray.cluster.streams import cause_of
from sa2va_ray.config import UserError
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.models.checkpoint import (
    StoredCheckpoint,
    newest_checkpoint,
    read_stored_checkpoint,
    read_verified_checkpoint,
)
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER, configure_logging, log_result
from sa2va_ray.train.checkpoints.beat import LOCK_FILE
from sa2va_ray.train.checkpoints.changes import check_setting_changes
from sa2va_ray.train.checkpoints.lock import RunLock
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.gpu_memory import keep_note_of
from sa2va_ray.train.plan.memory import log_measured_peak, log_plan
from sa2va_ray.train.plan.refusals import too_large, too_long
from sa2va_ray.train.plan.table import MemoryPlan
from sa2va_ray.train.watch.code_version import git_commit
from sa2va_ray.train.watch.page.job import page_of_job
from sa2va_ray.train.watch.page.run_page import PAGE_FILE
from sa2va_ray.train.watch.trackers.registry import check_trackers
from sa2va_ray.train.worker import run_worker

_CURE = (
    "Lower num_workers, cpus_per_worker or pipeline.cpus_per_actor (0.5 lets two of its actors share a core), or add "
    "nodes."
)
_PLAN_WAITS_S = 20.0  # for a GPU that other jobs have
_RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"


def train(config: TrainConfig) -> str | None:
    """Runs the training to its end and returns the URI of the last checkpoint; None with `plan`. While it does, no
    other job can train the run (see `lock`).

    Raises:
        UserError: data, storage or cluster do not fit the config, or the run does not fit into its GPUs, found before
            a worker is started; or what ended the run, with what to do.
    """
    configure_logging()
    check_trackers(config.trackers)
    inputs = {"data_uri": config.data_uri, **_paths_of_base(config)}
    storage.check_outside(config.runs_uri, inputs, key="runs_uri")
    run_uri = storage.join(config.runs_uri, config.name)
    if config.plan:
        _plan(config)
        return None
    data_manifest = _read_data_manifest(config)
    storage.check_writable(config.runs_uri)
    _refuse_where_never(config, run_uri)
    with RunLock(run_uri) as lock:
        return _train(config, data_manifest, lock)


def _read_data_manifest(config: TrainConfig) -> dict[str, Any]:
    """
    Raises:
        UserError: no prepared data set, or one that is too small for the run.
    """
    data_manifest = read_manifest(config.data_uri, what="prepared data set")
    if "counts" not in data_manifest:
        raise UserError(f"{config.data_uri} is no prepared data set: its manifest counts no samples.")
    num_samples = _num_samples(config, data_manifest, "train")
    if num_samples * config.repeats < config.num_workers:
        raise UserError(
            f"{num_samples} samples x {config.repeats} repeats are too few for {config.num_workers} workers"
        )
    if config.validation.every_steps and not _num_samples(config, data_manifest, "val"):
        raise UserError(
            f"{config.data_uri} has no validation patients. Prepare it with split.method=balanced, which gives each "
            "split its share, or train without validation: validation.every_steps=0."
        )
    return data_manifest


def _num_samples(config: TrainConfig, data_manifest: dict[str, Any], split: str) -> int:
    try:
        return int(data_manifest["counts"][split]["samples"])
    except (LookupError, TypeError, ValueError):
        raise UserError(
            f"The manifest of {config.data_uri} does not count the samples of its split '{split}' as jobs.prepare "
            "does: it was edited, or damaged. Prepare the data set again."
        ) from None


def _plan(config: TrainConfig) -> None:
    """Logs the plan alone. It needs of the base its small files, and of the data set nothing, if that is not there."""
    try:
        data_manifest = _read_data_manifest(config) if storage.list_files(config.data_uri) else None
    except StorageError as error:
        LOGGER.warning("the data set cannot be looked at: %s", error)
        data_manifest = None
    use_gpu, gpu_bytes = _gpus_of_a_plan(config)
    plan = log_plan(config.model_copy(update={"use_gpu": use_gpu}), data_manifest, gpu_bytes)
    for refusal in filter(None, (too_long(plan), too_large(plan))):
        LOGGER.warning(refusal)


def _refuse_where_never(config: TrainConfig, run_uri: str) -> None:
    if config.resume == "never" and storage.list_files(run_uri).keys() - {LOCK_FILE, PAGE_FILE}:
        raise UserError(
            f"A run is already in {run_uri}. Choose another name=..., delete that folder, or go on with resume=auto."
        )


def _train(config: TrainConfig, data_manifest: dict[str, Any], lock: RunLock) -> str:
    """Trains while it holds the run's lock. Returns the URI of the last checkpoint."""
    run_uri, data_sha256 = storage.join(config.runs_uri, config.name), digest(data_manifest)
    saved = _read_newest(run_uri, config, data_sha256)
    if saved and _is_at_end(saved):
        LOGGER.info("the run %s is at its end already: checkpoint %s", config.name, saved.uri)
        _log_result(saved.uri, run_uri)
        return saved.uri
    connect()
    config = config.model_copy(update={"use_gpu": decide_use_gpu(config.use_gpu)})
    check_cluster(config.resources(config.pipeline.cpus_per_rank()), _CURE, config.resources_per_worker())
    check_paths(config, data_uri=config.data_uri, runs_uri=config.runs_uri, **_paths_of_base(config))
    waits = "auto" in (config.strategy, config.micro_batch_size)
    gpu_bytes = least_gpu_bytes(waits) if config.use_gpu else None
    plan = log_plan(config, data_manifest, gpu_bytes)
    _check_plan(plan)
    may_halve = config.micro_batch_size == "auto"
    config = plan.config.model_copy(update={"strategy": plan.strategy})
    # Ray would look for checkpoints that are not there any more; the workers find the newest one by themselves.
    storage.delete_files(run_uri, storage.list_files(run_uri).keys() & {_RAY_SNAPSHOT})
    keep_note_of(config, may_halve)
    lock.confirm()
    with page_of_job(run_uri, _facts(plan), lock.owner):
        _fit(config, data_sha256, lock.owner, run_uri, may_halve)
    trained = newest_checkpoint(run_uri, read_stored_checkpoint)
    assert trained, "a run that has ended has saved its end"
    log_measured_peak(plan, trained)
    LOGGER.info("trained: checkpoint %s", trained.uri)
    _log_result(trained.uri, run_uri)
    return trained.uri


def _check_plan(plan: MemoryPlan) -> None:
    """
    Raises:
        UserError: a sample that is longer than the config lets through, or, without `force`, more memory than the GPUs
            have.
    """
    if refusal := too_long(plan):
        raise UserError(refusal)
    if refusal := too_large(plan):
        if not plan.config.force:
            raise UserError(f"{refusal} force=true starts the run all the same.")
        LOGGER.warning("started by force=true: %s", refusal)


def _paths_of_base(config: TrainConfig) -> dict[str, str | None]:
    base = config.model.base
    keys = ("source", "sam2_checkpoint", "initialise_from") if base else ()
    return {f"model.base.{key}": getattr(base, key) for key in keys}


def _gpus_of_a_plan(config: TrainConfig) -> tuple[bool, int | None]:
    """Whether the run would use GPUs; and the memory of the smallest one of the cluster's nodes that are up, or of this
    machine where the process belongs to no cluster, None where it is not known."""
    if config.use_gpu is False:
        return False, None
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        is_here = torch.cuda.is_available()
        return config.use_gpu or is_here, torch.cuda.get_device_properties(0).total_memory if is_here else None
    connect()
    if not decide_use_gpu(config.use_gpu):
        return False, None
    return True, least_gpu_bytes(waits=False, patience_s=_PLAN_WAITS_S)


def _facts(plan: MemoryPlan) -> dict[str, Any]:
    """What the page of the run shows before the workers have told more."""
    return {
        "name": plan.config.name,
        "config": plan.config.model_dump(mode="json"),
        "num_steps": plan.num_steps,
        "parameters": [asdict(group) for group in plan.sizes.groups],
    }


def _log_result(checkpoint_uri: str, run_uri: str) -> None:
    command = ("jobs.export", f"checkpoint={checkpoint_uri}", "out=MODEL", "name=NAME")
    log_result(checkpoint_uri, *command, shown=run_uri)


def _read_newest(run_uri: str, config: TrainConfig, data_sha256: str) -> StoredCheckpoint | None:
    """The newest sound checkpoint of the run, if it has one.

    Raises:
        UserError: it was made with other settings, so that the run cannot be resumed from it.
    """
    saved = newest_checkpoint(run_uri, _read_and_verify_last)
    if saved:
        for change in check_setting_changes(saved, config, data_sha256):
            LOGGER.warning("the run %s goes on with other settings: %s", config.name, change)
    return saved


def _read_and_verify_last(uri: str) -> StoredCheckpoint:
    """Verifies every file of a run's last checkpoint, since no worker will; of others only the small files."""
    saved = read_stored_checkpoint(uri)
    return read_verified_checkpoint(uri) if _is_at_end(saved) else saved


def _is_at_end(saved: StoredCheckpoint) -> bool:
    return saved.state.step == saved.state.num_steps


def _fit(config: TrainConfig, data_sha256: str, lock_owner: str, run_uri: str, may_halve: bool) -> None:
    """Raises `UserError` with what ended the run."""
    trainer = TorchTrainer(
        partial(run_worker, data_sha256, git_commit(), lock_owner, may_halve),  # type: ignore[arg-type]  # what it returns is new in Ray
        train_loop_config=config.model_dump(mode="json"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=_num_workers(config),  # type: ignore[arg-type]  # Ray's annotation leaves ranges out
            use_gpu=bool(config.use_gpu),
            resources_per_worker=config.resources_per_worker(),
        ),
        run_config=ray.train.RunConfig(
            name=config.name,
            storage_path=storage.absolute(config.runs_uri),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
        ),
    )
    try:
        with _sigterm_is_sigint():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise UserError(
            f"The run ended: {cause_of(error)} Its workers were replaced up to max_failures={config.max_failures} "
            f"times; the workers' logs are on the dashboard. Newest checkpoint: {_newest_checkpoint(run_uri)}. "
            "Start the job again with resume=auto (the default) to go on from it."
        ) from error
    if ended := result.return_value:  # type: ignore[attr-defined]  # rank 0's; Ray's annotation is that of V1
        raise UserError(ended)


@contextmanager
def _sigterm_is_sigint() -> Iterator[None]:
    """`ray job stop` sends SIGTERM, and Ray Train ends its workers on SIGINT alone. Workers that go on would
    say on the run's page that it trains, and miss its lock, after the job has said that it was stopped."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other one handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _newest_checkpoint(run_uri: str) -> str:
    try:
        saved = newest_checkpoint(run_uri, read_stored_checkpoint)
    except StorageError:
        return "not known, since the store does not answer"
    return saved.uri if saved else "none yet"


def _num_workers(config: TrainConfig) -> int | tuple[int, int]:
    """The number of workers, or the range of it for an elastic run."""
    return (config.min_workers, config.num_workers) if config.min_workers else config.num_workers
