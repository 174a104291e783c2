"""How models and differences are written for people."""

from collections.abc import Mapping
from typing import Any

from sa2va_ray.evaluate.statistics.people import describe_ceiling
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


def describe_one_mask(result: Mapping[str, Any]) -> str:
    """What to know of the scores by phrase in the content of `metrics.json`, where a model does not hear what it is
    asked; else empty."""
    models = [result["model"], *([result["against"]["model"]] if "against" in result else [])]
    names = [model["name"] for model in models if model["kind"] != "sa2va"]
    if not names or not result["by_phrase"]:
        return ""
    return (
        f"{' and '.join(names)}: a baseline has no language. Each phrase is compared with its one mask, of all objects "
        "together, so its scores here do not tell how well each phrase is found."
    )


def describe_cleanup(cleanup: CleanupConfig) -> str:
    """E.g. "clean-up min_component_px 20, max_hole_px 5"."""
    steps = [f"{name} {value}" for name, value in cleanup.model_dump().items() if value]
    return f"clean-up {', '.join(steps)}" if steps else "without clean-up"


def describe_ceilings(result: Mapping[str, Any]) -> list[str]:
    """What to tell of each `human_ceiling` in the content of `metrics.json`, of `model` and of `against`."""
    return [
        describe_ceiling(summary["human_ceiling"], name)
        for name, summary in _summaries(result)
        if summary["human_ceiling"]
    ]


def describe_difference(result: Mapping[str, Any]) -> str:
    """The paired difference in Dice of `model` and `against` in the content of `metrics.json`."""
    difference, other = result["differences"]["dice"], result["against"]
    interval = difference["interval_95"]
    within = " to ".join(f"{end:+.4f}" for end in interval) if interval else "no interval of one patient"
    return (
        f"against {other['model']['name']}, of dice {other['per_patient']['dice']:.4f}: the difference is "
        f"{difference['mean']:+.4f} ({within})"
    )


def describe_silences(result: Mapping[str, Any]) -> list[str]:
    """What to tell of each `silence` in the content of `metrics.json`, of `model` and of `against`."""
    return [
        _describe_silence(name, summary["model"], each)
        for name, summary in _summaries(result)
        for each in summary["silence"]
    ]


def _summaries(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each model's name, and what was found of it."""
    if "against" not in result:
        return [(result["model"]["name"], result)]
    names = distinct_names(result["model"], result["against"]["model"])
    return [*zip(names, (result, result["against"]), strict=True)]


def _describe_silence(name: str, model: Mapping[str, Any], silent: Mapping[str, Any]) -> str:
    """The numbers, the likely cause, what to do."""
    total, no_seg, empty = silent["num_objects"], silent["num_no_seg"], silent["num_empty"]
    told = (
        f"{name} is SILENT: it found nothing on {no_seg + empty} of the {total} image(s) that have "
        f"'{silent['phrase']}'. They count as empty masks, so the scores do not tell how well it draws."
    )
    if no_seg:
        told += (
            f" {no_seg} answer(s) had no [SEG], without which there is no mask: has the model been trained long enough "
            "(val/seg_share on the run's page), with this phrase, on images of this kind?"
        )
    if empty:
        told += (
            f" {empty} mask(s) were empty: no probability was above the threshold {model['threshold']:.4g}, or the "
            "clean-up took everything away. jobs.calibrate chooses both; the report's curve over thresholds tells "
            "whether a lower one would help."
        )
    return told
