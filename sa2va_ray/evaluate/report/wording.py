"""How models and differences are written for people."""

from collections.abc import Mapping
from typing import Any

from sa2va_ray.metrics import Metric
from sa2va_ray.metrics.catalogue import CATALOGUE, HEADLINE_METRICS
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


def describe_ceiling(ceiling: Mapping[str, Any]) -> str:
    """E.g. "human ceiling on 9 images of 3 patients, against the consensus of the other annotators: people Dice 0.810
    (0.790 to 0.830), clDice ...; the model there Dice ..."."""
    people, model = (
        ", ".join(_with_interval(ceiling[who], name) for name in HEADLINE_METRICS) for who in ("people", "model")
    )
    return (
        f"human ceiling on {ceiling['num_images']} images of {ceiling['num_patients']} patients, against the consensus "
        f"of the other annotators: people {people}; the model there {model}"
    )


def _with_interval(scores: Mapping[str, Any], name: str) -> str:
    metric, interval = CATALOGUE[name], scores["interval_95"][name]
    between = f" ({metric.format(interval[0])} to {metric.format(interval[1])})" if interval else ""
    return f"{metric.label} {metric.format(scores['per_patient'][name])}{between}"


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
