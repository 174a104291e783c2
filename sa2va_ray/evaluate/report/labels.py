"""How metrics are called and written for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sa2va_ray.predict.cleanup import CleanupConfig


@dataclass(frozen=True)
class Label:
    """Attributes:
    unit: "" for shares in [0, 1].
    """

    name: str
    unit: str
    higher_is_better: bool
    meaning: str


LABELS = {
    "dice": Label("Dice", "", True, "overlap: twice the common area over the sum of both areas"),
    "iou": Label("IoU", "", True, "overlap: the common area over the area of either"),
    "precision": Label("Precision", "", True, "of what is drawn, the share that is vessel"),
    "recall": Label("Recall", "", True, "of the vessels' area, the share that is drawn"),
    "cldice": Label("clDice", "", True, "overlap of middle lines: a vessel counts by its length"),
    "surface_dice": Label("Surface Dice", "", True, "of both outlines, the share within the tolerance of the other"),
    "hd95": Label("HD95", "px", False, "distance of the outlines that 95 % of them keep within"),
    "betti0_error": Label("Betti-0 error", "pieces", False, "pieces too many or too few: breaks and specks"),
    "betti1_error": Label("Betti-1 error", "loops", False, "loops too many or too few"),
}
"""By metric, in the order of the report."""


def format_value(value: float, metric: str) -> str:
    return f"{value:.1f}" if LABELS[metric].unit else f"{value:.3f}"


def format_signed(value: float, metric: str) -> str:
    text = format_value(abs(value), metric)
    if not text.strip("0."):
        return text
    return f"+{text}" if value > 0 else f"\N{MINUS SIGN}{text}"


def verdict(difference: dict, label: Label) -> str:
    """What an interval of a difference says."""
    interval = difference["interval_95"]
    if interval is None:
        return "one patient: cannot be told"
    low, high = interval
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (low > 0) == label.higher_is_better else "worse"


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
