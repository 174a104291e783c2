"""Curves on a server of MLflow, an extra of this package."""

import importlib.util
import os
import time
from collections.abc import Mapping
from typing import Any

from sa2va_ray.config import UserError
from sa2va_ray.storage import StorageError
from sa2va_ray.train.watch.trackers.tracker import TrackedRun, Tracker

_VALUES_PER_CALL = 1000  # as many as MLflow takes


class MLflow(Tracker):
    """A run of the experiment `MLFLOW_EXPERIMENT_NAME` ("sa2va_ray") on the server `MLFLOW_TRACKING_URI`. A run that
    goes on is found again by its folder."""

    def __init__(self, run: TrackedRun):
        # It would report to its makers, and try for minutes in one call; we call again.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        self._run = run
        self._client: Any = None
        self._run_id = ""
        self._waiting: list[Any] = []

    @classmethod
    def check_installed(cls) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise UserError(
                "trackers names mlflow, which is not installed here. Install sa2va-ray[mlflow] on all nodes, or take "
                "mlflow out of trackers."
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now_ms, step) for name, value in values.items()]

    def send(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            if not self._run_id:
                self._run_id = self._find_or_create_run()
            while batch := self._waiting[:_VALUES_PER_CALL]:
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
        found = self._client.search_runs([experiment_id], f"tags.run_uri = '{self._run.uri}'")  # newest first
        if found and self._run.start_step:
            return found[0].info.run_id
        tags = {**self._run.tags, "run_uri": self._run.uri}
        return self._client.create_run(experiment_id, run_name=self._run.name, tags=tags).info.run_id
