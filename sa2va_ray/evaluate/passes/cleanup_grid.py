"""What each clean-up of the masks would give at one threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from sa2va_ray.evaluate.config import CalibrateConfig
from sa2va_ray.evaluate.inputs import Split
from sa2va_ray.evaluate.passes.answers import to_columns
from sa2va_ray.evaluate.passes.measure import BATCH_SIZE, CPUS_PER_TASK, Truth, collect, read_levels, with_truths
from sa2va_ray.evaluate.statistics.choose import rows_of_objective
from sa2va_ray.metrics import NUM_LEVELS, SWEPT_METRICS, dequantise, probability_counts, sweep
from sa2va_ray.metrics.patients import PatientCurves, Row
from sa2va_ray.predict.cleanup import CleanupConfig, clean_mask

CLEANUPS = tuple(
    CleanupConfig(min_component_px=component, max_hole_px=hole)
    for component in (0, 10, 20, 50, 100, 200)
    for hole in (0, 5, 10, 20, 50)
)
"""None first. Closing and opening are left out: they change the width of the vessels."""


@dataclass(frozen=True)
class CleanupScores:
    """`SWEPT_METRICS` of each patient, the points being `CLEANUPS`.

    Attributes:
        of_objective: of the objects that the objective is about.
        of_all: of all, so that a clean-up which takes false alarms away counts.
    """

    of_objective: PatientCurves
    of_all: PatientCurves


def try_cleanups(answers: ray.data.Dataset, split: Split, threshold: float, config: CalibrateConfig) -> CleanupScores:
    """What each of `CLEANUPS` gives at a threshold."""
    beta = config.beta or 1.0
    scored = answers.map_batches(
        partial(_score_batch, split=split, threshold=threshold, beta=beta),
        batch_size=BATCH_SIZE,
        num_cpus=CPUS_PER_TASK,
    )
    rows = list(collect(scored, "clean", split.num_images))
    return CleanupScores(_curves(rows_of_objective(rows, config)), _curves(rows))


def choose_cleanup(scores: CleanupScores, config: CalibrateConfig) -> int:
    """Place in `CLEANUPS` of the best by the objective, the one that does least where several are equally good.

    With a recall target, the best Dice of all images among those that keep to it where the object is; doing nothing
    does.
    """
    if config.objective != "recall":
        return int(np.argmax(scores.of_objective.mean(config.objective)))
    keeps = scores.of_objective.mean("recall") >= config.recall_target
    return int(np.argmax(np.where(keeps, scores.of_all.mean("dice"), -1.0)))


def _curves(rows: Sequence[Row]) -> PatientCurves:
    return PatientCurves.from_rows(
        rows, lambda row: dict(zip(SWEPT_METRICS, row["scores"], strict=True)), SWEPT_METRICS
    )


def _score_batch(batch: Mapping[str, np.ndarray], split: Split, threshold: float, beta: float) -> dict[str, list]:
    return to_columns([_score(*pair, threshold, beta) for pair in with_truths(batch, split)])


def _score(answer: dict[str, Any], truth: Truth, threshold: float, beta: float) -> dict[str, Any]:
    """`scores`: (4, `CLEANUPS`), `SWEPT_METRICS` of each clean-up."""
    mask, labels = dequantise(read_levels(answer, truth.mask.shape)) > threshold, truth.mask[truth.counts]
    cleaned = [clean_mask(mask, cleanup)[truth.counts] for cleanup in CLEANUPS]
    swept = [sweep(probability_counts(each * np.uint16(NUM_LEVELS - 1), labels), beta) for each in cleaned]
    scores = np.array([[curves[name][0] for curves in swept] for name in SWEPT_METRICS])
    kept = {name: answer[name] for name in ("row", "sample_id", "patient_id")}
    return {**kept, "is_negative": not truth.mask.any(), "scores": scores}
