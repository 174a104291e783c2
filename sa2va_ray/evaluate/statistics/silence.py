"""A silent model: one that says of most of what is on the images that it is not there."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sa2va_ray.evaluate.report.wording import distinct_names
from sa2va_ray.metrics.patients import Row
from sa2va_ray.models.checkpoint import LEAST_SEG_SHARE


def silence(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each phrase for which less than half of what is on the images was found at all, in the order of first
    appearance: `phrase`, `num_objects` of images that could be read, how many of them the model said nothing of
    (`num_no_seg`), and how many it drew an empty mask of (`num_empty`).

    Args:
        rows: each with `is_empty`, whether its mask has no pixel.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not row["is_negative"] and row["failure"] in ("", "no_seg"):
            groups[row["phrase"]].append(row)
    counts = [
        {
            "phrase": phrase,
            "num_objects": len(own),
            "num_no_seg": sum(row["failure"] == "no_seg" for row in own),
            "num_empty": sum(row["is_empty"] and not row["failure"] for row in own),
        }
        for phrase, own in groups.items()
    ]
    return [each for each in counts if _num_found(each) < LEAST_SEG_SHARE * each["num_objects"]]


def describe_silences(result: Mapping[str, Any]) -> list[str]:
    """What to tell of each `silence` in the content of `metrics.json`, of `model` and of `against`."""
    if "against" not in result:
        return [_describe(result["model"]["name"], result["model"], each) for each in result["silence"]]
    summaries = (result, result["against"])
    names = distinct_names(result["model"], result["against"]["model"])
    return [
        _describe(name, summary["model"], each)
        for name, summary in zip(names, summaries, strict=True)
        for each in summary["silence"]
    ]


def _describe(name: str, model: Mapping[str, Any], silent: Mapping[str, Any]) -> str:
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


def _num_found(silent: Mapping[str, Any]) -> int:
    return silent["num_objects"] - silent["num_no_seg"] - silent["num_empty"]
