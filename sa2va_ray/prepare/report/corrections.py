"""What people changed of our models' predictions, in numbers: whether a model that draws first saves them work."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_Row = Mapping[str, Any]


def summarize_corrections(rows: Iterable[_Row]) -> dict[str, Any]:
    """
    Args:
        rows: of `examine.SCHEMA`, of the samples that are used.

    Returns:
        `by_model`: of each version of ours, how many images began with its masks, how many of these masks cannot be
        compared, how many were left as they were, their Dice with the correction, and the minutes; `from_scratch`:
        images without such a prediction, and the minutes. Empty where no label came from Label Studio.
    """
    known = [row for row in rows if row["annotations_sha256"]]
    if not known:
        return {}
    of_model: dict[str, list[_Row]] = defaultdict(list)
    for row in known:
        of_model[row["predicted_by"] or ""].append(row)
    scratch = of_model.pop("", [])
    return {
        "by_model": [_of_model(version, own) for version, own in sorted(of_model.items())],
        "from_scratch": {"images": len(scratch), "minutes": _minutes(scratch)},
    }


def list_corrections(rows: Iterable[_Row]) -> list[dict[str, Any]]:
    """The images that began with a prediction of ours, the most changed ones first, those that cannot be compared
    last."""
    told = [
        {
            "item": row["index"],
            "sample_id": row["sample_id"],
            "model": row["predicted_by"],
            "dice": row["correction_dice"],
            "minutes": None if row["lead_time_s"] is None else row["lead_time_s"] / 60,
        }
        for row in rows
        if row["predicted_by"]
    ]
    return sorted(told, key=lambda each: (each["dice"] is None, each["dice"], each["item"]))


def describe_corrections(summary: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each model, and one for what was drawn from nothing, for the log."""
    for model in summary.get("by_model", ()):
        dice, minutes = model["dice"], model["minutes"]
        median = f"Dice of prediction and correction {dice['median']:.3f} (median), " if dice else ""
        unread = f", {model['not_compared']} cannot be compared" if model["not_compared"] else ""
        yield (
            f"corrections of {model['model']}: {model['images']} images, {median}{model['unchanged']} left as they "
            f"were{unread}{_spent(minutes)}"
        )
    if scratch := summary.get("from_scratch", {}).get("images"):
        yield f"labels drawn from nothing: {scratch} images{_spent(summary['from_scratch']['minutes'])}"


def _of_model(version: str, rows: Sequence[_Row]) -> dict[str, Any]:
    dices = [row["correction_dice"] for row in rows if row["correction_dice"] is not None]
    low, median, high = np.percentile(dices, [5, 50, 95]).tolist() if dices else (None, None, None)
    return {
        "model": version,
        "images": len(rows),
        "not_compared": len(rows) - len(dices),
        "unchanged": sum(dice == 1 for dice in dices),
        "dice": {"median": median, "p5": low, "p95": high} if dices else None,
        "minutes": _minutes(rows),
    }


def _minutes(rows: Sequence[_Row]) -> dict[str, Any] | None:
    """`known`: of how many images they are told; `total` and `median` of these. None where of none."""
    known = [row["lead_time_s"] / 60 for row in rows if row["lead_time_s"] is not None]
    return {"known": len(known), "total": sum(known), "median": float(np.median(known))} if known else None


def _spent(minutes: Mapping[str, Any] | None) -> str:
    if minutes is None:
        return ""
    return f"; {minutes['median']:.1f} minutes an image (median of {minutes['known']}), {minutes['total']:.0f} in all"
