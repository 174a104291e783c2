"""The driver side of a training run: checks, then a Ray Train TorchTrainer."""

import subprocess
from functools import partial

import ray
import ray.train
from ray.train.torch import TorchTrainer

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.pipeline import SampleIndex
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.telemetry import LOGGER, configure_logging
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.loop import train_loop_per_worker


def train(config: TrainConfig) -> str:
    """Runs the whole training and returns the URI of the last checkpoint.

    Raises:
        UserError: data, storage or cluster do not fit the config; found before a worker is started.
    """
    configure_logging()
    run_uri = storage.join(config.runs_uri, config.name)
    data_sha256 = digest(read_manifest(config.data_uri, what="prepared data set"))
    num_samples = len(SampleIndex(config.data_uri, "train"))
    if num_samples * config.repeats < config.num_workers:
        raise UserError(
            f"{num_samples} samples x {config.repeats} repeats are too few for {config.num_workers} workers"
        )
    if storage.list_files(run_uri):
        raise UserError(f"A run is already in {run_uri}. Choose another name=... or delete that folder.")
    storage.check_writable(config.runs_uri)
    if not ray.is_initialized():
        ray.init()
    _check_cluster(config)

    trainer = TorchTrainer(
        partial(_worker, data_sha256, _git_commit()),
        train_loop_config=config.model_dump(mode="json"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if config.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=config.name,
            storage_path=storage.absolute(config.runs_uri),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
        ),
    )
    checkpoint = trainer.fit().checkpoint
    assert checkpoint is not None, "the loop saves at its last step"
    checkpoint_uri = storage.join(run_uri, checkpoint.path.rstrip("/").rsplit("/", 1)[-1])
    LOGGER.info("trained: checkpoint %s", checkpoint_uri)
    return checkpoint_uri


def _worker(data_sha256: str, git_commit: str, values: dict) -> None:
    train_loop_per_worker(TrainConfig.parse(values), data_sha256, git_commit)


def _check_cluster(config: TrainConfig) -> None:
    """Ray would wait for ever, with only a warning, for what the cluster does not have."""
    present = ray.cluster_resources()
    for resource, wanted in config.resources().items():
        if present.get(resource, 0.0) < wanted:
            raise UserError(
                f"The run wants {wanted:g} {resource} (workers and their data pipelines), the cluster has "
                f"{present.get(resource, 0.0):g}. Lower num_workers, cpus_per_worker or pipeline.cpus_per_actor, "
                "or add nodes."
            )


def _git_commit() -> str:
    """Commit of the code, "unknown" outside a checkout (a job's working directory has no .git)."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"
