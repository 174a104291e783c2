"""Where the curves of a run go: TensorBoard, MLflow, and the metrics of Ray's dashboard. All take the same names."""

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray.util.metrics
from torch.utils.tensorboard import SummaryWriter

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.storage import StorageError

TrackerName = Literal["tensorboard", "mlflow"]

_MLFLOW_BATCH = 1000  # values that MLflow takes in one call


class Tracker:
    """A place for curves. Nothing of it waits for a network but `send`, which is called in the background."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """RGB images (H, W, 3) uint8 by name."""

    def text(self, step: int, name: str, text: str) -> None:
        pass

    def send(self) -> None:
        """Raises `StorageError` where the other side does not answer; what was not sent goes with the next call."""

    def close(self) -> None:
        pass


class TensorBoard(Tracker):
    """Event files in `RUN/tensorboard`. A run that goes on adds a file, which replaces what an earlier one has from
    `start_step` on."""

    def __init__(self, run_uri: str, start_step: int):
        self._uri = storage.join(run_uri, "tensorboard")
        self._folder = Path(tempfile.mkdtemp(prefix="tensorboard-"))
        self._writer = SummaryWriter(str(self._folder), purge_step=start_step + 1 if start_step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def text(self, step: int, name: str, text: str) -> None:
        self._writer.add_text(name, text, step)

    def send(self) -> None:
        self._writer.flush()
        newest = max(path.name for path in self._folder.iterdir())
        storage.upload_folder(self._folder, self._uri, last=newest)

    def close(self) -> None:
        self._writer.close()
        shutil.rmtree(self._folder)


class MLflow(Tracker):
    """A run of the experiment `MLFLOW_EXPERIMENT_NAME` ("sa2va_ray") on the server `MLFLOW_TRACKING_URI`. A run that
    goes on is found again by its folder."""

    def __init__(self, run_uri: str, start_step: int, tags: Mapping[str, str]):
        # It would report to its makers, and try for minutes in one call; we call again.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        self._run_uri, self._is_new, self._tags = run_uri, start_step == 0, dict(tags)
        self._client: Any = None
        self._run_id = ""
        self._waiting: list[Any] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now_ms, step) for name, value in values.items()]

    def send(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            if not self._run_id:
                self._run_id = self._find_or_create_run()
            while batch := self._waiting[:_MLFLOW_BATCH]:
                self._client.log_batch(self._run_id, metrics=batch)
                del self._waiting[: len(batch)]
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            raise StorageError(f"MLflow does not take the curves: {reason}. Check MLFLOW_TRACKING_URI.") from None

    def _find_or_create_run(self) -> str:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sa2va_ray")
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        found = self._client.search_runs([experiment_id], f"tags.run_uri = '{self._run_uri}'")  # newest first
        if found and not self._is_new:
            return found[0].info.run_id
        tags = {**self._tags, "run_uri": self._run_uri}
        return self._client.create_run(experiment_id, run_name=self._run_uri.rsplit("/", 1)[-1], tags=tags).info.run_id


class RayMetrics(Tracker):
    """Gauges of the same names in Ray's own metrics, which the dashboard and Prometheus show: `train/loss` of the run
    NAME is `ray_sa2va_train_loss{run="NAME"}` there."""

    def __init__(self, run_name: str):
        self._tags = {"run": run_name}
        self._gauges: dict[str, ray.util.metrics.Gauge] = {}
        self._skipped = ray.util.metrics.Counter(
            "sa2va_train_skipped_samples", "Samples left out because a loss was not finite.", tag_keys=("run",)
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if name not in self._gauges:
                legal = f"sa2va_{name.replace('/', '_')}"
                self._gauges[name] = ray.util.metrics.Gauge(legal, f"{name} of a training run.", tag_keys=("run",))
            self._gauges[name].set(value, tags=self._tags)

    def count_skipped(self, num_samples: int) -> None:
        if num_samples:
            self._skipped.inc(num_samples, tags=self._tags)


def check_trackers(names: tuple[TrackerName, ...]) -> None:
    """Raises `UserError` where a tracker of the config is not installed."""
    if "mlflow" in names and importlib.util.find_spec("mlflow") is None:
        raise UserError(
            "trackers names mlflow, which is not installed here. Install sa2va-ray[mlflow] on all nodes, or take "
            "mlflow out of trackers."
        )


def build_trackers(
    names: tuple[TrackerName, ...], run_uri: str, start_step: int, tags: Mapping[str, str]
) -> list[Tracker]:
    """Those that the config names.

    Raises:
        UserError: one is not installed.
    """
    check_trackers(names)
    trackers: list[Tracker] = []
    if "tensorboard" in names:
        trackers.append(TensorBoard(run_uri, start_step))
    if "mlflow" in names:
        trackers.append(MLflow(run_uri, start_step, tags))
    return trackers
