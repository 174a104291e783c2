"""How models and differences are written for people."""

from collections.abc import Mapping
from typing import Any

from sa2va_ray.metrics import Metric
from sa2va_ray.predict.cleanup import CleanupConfig


def verdict(difference: dict, metric: Metric) -> str:
    """What an interval of a difference says."""
    interval = difference["interval_95"]
    if interval is None:
        return "one patient: cannot be told"
    low, high = interval
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (low > 0) == metric.higher_is_better else "worse"


def distinct_names(model: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str]:
    """Names of two models by their facts in `metrics.json`; of the same name, with what tells them apart."""
    if model["name"] != other["name"]:
        return model["name"], other["name"]
    if model["sha256"] != other["sha256"]:
        return f"{model['name']} {model['sha256'][:6]}", f"{other['name']} {other['sha256'][:6]}"
    return f"{model['name']} at {model['threshold']:.4g}", f"{other['name']} at {other['threshold']:.4g}"


def describe_cleanup(cleanup: CleanupConfig) -> str:
    """E.g. "clean-up min_component_px 20, max_hole_px 5"."""
    steps = [f"{name} {value}" for name, value in cleanup.model_dump().items() if value]
    return f"clean-up {', '.join(steps)}" if steps else "without clean-up"
