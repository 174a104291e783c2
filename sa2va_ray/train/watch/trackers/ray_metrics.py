"""Curves as metrics of Ray, which it offers to a Prometheus."""

from collections.abc import Mapping

import ray.util.metrics

from sa2va_ray.train.watch.trackers.tracker import TrackedRun, Tracker


class RayMetrics(Tracker):
    """Gauges of the same names in Ray's own metrics: `train/loss` of the run NAME is
    `ray_sa2va_train_loss{run="NAME"}` there."""

    def __init__(self, run: TrackedRun):
        self._tags = {"run": run.name}
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
