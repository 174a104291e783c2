"""A calibration as one HTML file."""

from collections.abc import Iterator, Mapping
from typing import Any

from sa2va_ray.evaluate.inputs import MeasuredModel, Split
from sa2va_ray.evaluate.passes.cleanup_grid import CLEANUPS, CleanupScores
from sa2va_ray.evaluate.report.evaluation_page import render
from sa2va_ray.evaluate.report.model_charts import reliability_chart, threshold_chart
from sa2va_ray.evaluate.report.wording import describe_cleanup
from sa2va_ray.metrics import CATALOGUE

_MAX_ROWS = 10


def render_calibration(
    model: MeasuredModel,
    split: Split,
    facts: Mapping[str, Any],
    curves: Mapping[str, Any],
    probabilities: Mapping[str, Any],
    scores: CleanupScores | None,
) -> bytes:
    """The page that `jobs.calibrate` leaves.

    Args:
        model: as it was before.
        facts: `threshold`, `cleanup` and `calibration`, as they go into the manifest.
        curves: what `threshold_curves` gives.
        probabilities: what `probability_calibration` gives.
        scores: what `try_cleanups` gives, if clean-ups were tried.
    """
    before, threshold = model.facts, facts["threshold"]
    marks = [(threshold, f"chosen: {threshold:.4g}")]
    return render(
        "calibration.html.jinja",
        **facts,
        name=before.name,
        sha256=before.sha256,
        before=before.threshold,
        before_cleanup=before.cleanup.model_dump(),
        was_trained_on_split=model.was_trained_on(split),
        objective_label=_objective_label(facts["calibration"]),
        objective=describe_objective(facts["calibration"]),
        charts=[threshold_chart(curves, marks), reliability_chart(probabilities)],
        cleanups=list(_cleanups(scores)) if scores else [],
    )


def describe_objective(calibration: Mapping[str, Any]) -> str:
    """E.g. "the greatest mean Dice"."""
    if calibration["objective"] == "recall":
        return f"the highest threshold with a mean recall of at least {calibration['recall_target']:g}"
    return f"the greatest mean {_objective_label(calibration)}"


def _objective_label(calibration: Mapping[str, Any]) -> str:
    objective = calibration["objective"]
    return f"F{calibration['beta']:g}" if objective == "fbeta" else CATALOGUE[objective].label


def _cleanups(scores: CleanupScores) -> Iterator[tuple[str, float, float]]:
    """What is done, mean Dice of all questions, and mean recall of those that the objective is about, of the clean-ups
    that are best by Dice."""
    dice, recall = scores.of_all.mean("dice"), scores.of_objective.mean("recall")
    for place in (-dice).argsort(kind="stable")[:_MAX_ROWS]:
        yield describe_cleanup(CLEANUPS[place]), dice[place], recall[place]
