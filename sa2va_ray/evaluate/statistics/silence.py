"""A silent model: one that says of most of what is on the images that it is not there."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sa2va_ray.metrics.patients import Row
from sa2va_ray.models.checkpoint import LEAST_SEG_SHARE


def silence(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each phrase for which less than half of what is on the images was found at all, in the order of first
    appearance: `phrase`, `num_objects` of images that could be read and whose answer had not too many masks, how many
    of them the model said nothing of (`num_no_seg`), and how many it drew an empty mask of (`num_empty`).

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


def _num_found(silent: Mapping[str, Any]) -> int:
    return silent["num_objects"] - silent["num_no_seg"] - silent["num_empty"]
