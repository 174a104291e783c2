"""All metrics of a pair of masks: how each is computed, called and written. A metric that stands here is in
evaluations, their reports and model cards; to add one is a function and an entry.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from sa2va_ray.metrics.overlap import cldice, overlap_metrics
from sa2va_ray.metrics.surface import TOLERANCE_PX, surface_metrics
from sa2va_ray.metrics.topology import betti_errors

Compute = Callable[[np.ndarray, np.ndarray, float], Mapping[str, float]]
"""(prediction, truth, tolerance in pixels) -> this metric by its name, and others that come with it."""


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, called and written.

    Attributes:
        label: what people call it.
        meaning: a part of a sentence for people who have not met it.
        unit: "" for shares in [0, 1].
        in_validation: whether it is quick enough to be measured while training goes on.
    """

    label: str
    meaning: str
    compute: Compute
    unit: str = ""
    higher_is_better: bool = True
    in_validation: bool = False

    @property
    def title(self) -> str:
        """The label with the unit and an arrow in the better direction."""
        return f"{self.label}{self.unit and f', {self.unit}'} {'↑' if self.higher_is_better else '↓'}"

    def format(self, value: float) -> str:
        """The value as people read it, without its unit."""
        return f"{value:.1f}" if self.unit else f"{value:.3f}"

    def format_difference(self, value: float) -> str:
        """The difference of two values with its sign; one that rounds to nothing has none."""
        text = self.format(abs(value))
        if not text.strip("0."):
            return text
        return _signed(text, value)

    def format_bound(self, value: float) -> str:
        """An end of a difference's interval, whose sign tells the side of 0, also where it rounds to that."""
        return _signed(self.format(abs(value)), value)


def _signed(text: str, value: float) -> str:
    return text if value == 0 else f"+{text}" if value > 0 else f"\N{MINUS SIGN}{text}"


def _overlap(prediction: np.ndarray, truth: np.ndarray, _tolerance_px: float) -> Mapping[str, float]:
    return overlap_metrics(prediction, truth)


def _cldice(prediction: np.ndarray, truth: np.ndarray, _tolerance_px: float) -> Mapping[str, float]:
    return {"cldice": cldice(prediction, truth)}


def _betti(prediction: np.ndarray, truth: np.ndarray, _tolerance_px: float) -> Mapping[str, float]:
    return betti_errors(prediction, truth)


CATALOGUE: Mapping[str, Metric] = {
    "dice": Metric("Dice", "overlap: twice the common area over the sum of both areas", _overlap, in_validation=True),
    "iou": Metric("IoU", "overlap: the common area over the area of either", _overlap, in_validation=True),
    "precision": Metric("Precision", "of what is drawn, the share that is vessel", _overlap, in_validation=True),
    "recall": Metric("Recall", "of the vessels' area, the share that is drawn", _overlap, in_validation=True),
    "cldice": Metric("clDice", "overlap of middle lines: a vessel counts by its length", _cldice, in_validation=True),
    "surface_dice": Metric(
        "Surface Dice", "of both outlines, the share within the tolerance of the other", surface_metrics
    ),
    "hd95": Metric("HD95", "distance of the outlines that 95 % of them keep within", surface_metrics, "px", False),
    "betti0_error": Metric("Betti-0 error", "pieces too many or too few: breaks and specks", _betti, "pieces", False),
    "betti1_error": Metric("Betti-1 error", "loops too many or too few", _betti, "loops", False),
}
"""By name, in the order of reports."""

METRICS = tuple(CATALOGUE)
VALIDATION_METRICS = tuple(name for name, metric in CATALOGUE.items() if metric.in_validation)
HEADLINE_METRICS = ("dice", "cldice", "precision", "recall")
"""What a report says first, and of single images."""


def compute_metrics(
    prediction: np.ndarray, truth: np.ndarray, names: Iterable[str] = METRICS, tolerance_px: float = TOLERANCE_PX
) -> dict[str, float]:
    """The metrics `names` of one pair of masks, by name.

    Args:
        prediction, truth: (H, W) bool.
        tolerance_px: of `surface_dice`.

    Raises:
        ValueError: masks of different shapes.
    """
    values: dict[str, float] = {}
    for name in names:
        if name not in values:
            values |= CATALOGUE[name].compute(prediction, truth, tolerance_px)
    return {name: values[name] for name in names}
