"""Which trackers there are. A new one is a file with a `Tracker`, a row here, and its name in `TrackerName`."""

from collections.abc import Sequence

from sa2va_ray.train.watch.trackers.mlflow import MLflow
from sa2va_ray.train.watch.trackers.ray_metrics import RayMetrics
from sa2va_ray.train.watch.trackers.tensorboard import TensorBoard
from sa2va_ray.train.watch.trackers.tracker import TrackedRun, Tracker, TrackerName

TRACKERS: dict[TrackerName, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
"""Those that a config may name."""


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raises `UserError` where a tracker of the config is not installed."""
    for name in names:
        TRACKERS[name].check_installed()


def build_trackers(names: Sequence[TrackerName], run: TrackedRun) -> list[Tracker]:
    """Those that the config names, and Ray's own metrics.

    Raises:
        UserError: one is not installed.
    """
    check_trackers(names)
    kinds = [kind for name, kind in TRACKERS.items() if name in names]
    return [kind(run) for kind in (*kinds, RayMetrics)]
