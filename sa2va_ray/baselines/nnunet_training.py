"""Trains nnU-Net in one task of the cluster: on our splits, which it gets in its own layout."""

import math
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from sa2va_ray.baselines.config import BaselineConfig, NnunetTrainingConfig
from sa2va_ray.baselines.fitted import FittedBaseline
from sa2va_ray.cluster.resources import check_cluster, decide_use_gpu
from sa2va_ray.cluster.streams import cause_of
from sa2va_ray.config import UserError
from sa2va_ray.data.nnunet_layout import write_nnunet_layout
from sa2va_ray.data.sample_index import read_split
from sa2va_ray.models.baselines.config import check_nnunet
from sa2va_ray.models.model_manifest import UNCALIBRATED_THRESHOLD
from sa2va_ray.predict.baseline_predictors import CONFIG_FILE, WEIGHTS_FILE
from sa2va_ray.telemetry import LOGGER, configure_logging, log_progress

_LOG_EVERY_S = 20.0


def train_nnunet(config: BaselineConfig) -> FittedBaseline:
    """Trains to the end of `config.nnunet.num_epochs`. Another run gives other weights: nnU-Net sets no seed.

    Raises:
        UserError: nnU-Net is not installed, the cluster is too small, or what ended the training.
    """
    check_nnunet()
    read_split(config.data_uri, "val")  # nnU-Net looks at validation images after each epoch
    nnunet = config.nnunet.model_copy(update={"use_gpu": decide_use_gpu(config.nnunet.use_gpu)})
    check_cluster(
        nnunet.resources(), "Lower nnunet.num_cpus, set nnunet.use_gpu=false, or add nodes.", nnunet.resources()
    )
    # One call for each process: nnU-Net keeps its folders and numbers of processes in the environment.
    task = ray.remote(num_cpus=nnunet.num_cpus, num_gpus=int(bool(nnunet.use_gpu)), max_calls=1, max_retries=0)(_train)
    try:
        return ray.get(task.remote(config.data_uri, nnunet.model_dump()))
    except RayError as error:
        raise UserError(f"nnU-Net was not trained: {cause_of(error)} The task's log is on the dashboard.") from error


def _train(data_uri: str, values: dict[str, Any]) -> FittedBaseline:
    """What the task runs.

    Raises:
        UserError: nnU-Net is not installed where it runs, or a loss that is not finite.
    """
    configure_logging()
    check_nnunet()
    config = NnunetTrainingConfig.parse(values)
    os.environ["nnUNet_def_n_proc"] = str(config.num_cpus)  # noqa: SIM112  # read when nnU-Net is imported
    # nnU-Net ends its helpers by this signal. They are forked with Ray's handler, which Python loses a signal of that
    # comes while a process is young, and nnU-Net would wait for it for ever.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(config.num_cpus)
    from sa2va_ray.models.baselines import nnunet

    with tempfile.TemporaryDirectory(prefix="nnunet_") as folder:
        root = Path(folder)
        write_nnunet_layout(data_uri, str(nnunet.raw_folder(root)))
        LOGGER.info("nnU-Net plans and preprocesses")
        nnunet.plan(root, config.gpu_memory_gb, config.num_cpus)
        device, num_augmenting = ("cuda", config.num_cpus - 1) if config.use_gpu else ("cpu", 0)
        trained = nnunet.train(root, config.num_epochs, config.steps_per_epoch, device, num_augmenting, _Watch(config))
        trained.save_weights(root / WEIGHTS_FILE)
        weights = (root / WEIGHTS_FILE).read_bytes()
    files = {WEIGHTS_FILE: weights, CONFIG_FILE: (trained.model.model_dump_json(indent=2) + "\n").encode()}
    return FittedBaseline(files, UNCALIBRATED_THRESHOLD, {"loss": trained.loss})


class _Watch:
    """Logs steps, at the end of each epoch and every twenty seconds."""

    def __init__(self, config: NnunetTrainingConfig):
        self._steps_per_epoch, self._total = config.steps_per_epoch, config.num_epochs * config.steps_per_epoch
        self._logged_s = time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(f"The loss of nnU-Net is {loss} at step {step}: training diverged. Start it again.")
        epoch, into = divmod(step, self._steps_per_epoch)
        if into == 0 or time.monotonic() - self._logged_s > _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            log_progress("nnunet", step, self._total, f"epoch {epoch + bool(into)}, loss {loss:.4f}")
