"""Chooses a model's threshold, and what is done to its masks, and keeps both in the model's manifest.

Each image is predicted once. Its probabilities are counted in 256 bins, from which the curve of every threshold comes
exactly; the clean-up is tried on the same probabilities, at the threshold that was chosen without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray

from sa2va_ray import __version__, storage
from sa2va_ray.cluster.resources import connect
from sa2va_ray.cluster.streams import user_errors
from sa2va_ray.config import UserError
from sa2va_ray.evaluate.config import CalibrateConfig
from sa2va_ray.evaluate.inputs import MeasuredModel, Split
from sa2va_ray.evaluate.passes.answers import answer_questions, to_columns
from sa2va_ray.evaluate.passes.cleanup_grid import CLEANUPS, CleanupScores, choose_cleanup, try_cleanups
from sa2va_ray.evaluate.passes.measure import BATCH_SIZE, CPUS_PER_TASK, collect, failure_of, read_levels, with_truths
from sa2va_ray.evaluate.report.calibration_page import render_calibration
from sa2va_ray.evaluate.statistics.choose import choose_threshold, rows_of_objective, warn_of_choice
from sa2va_ray.evaluate.statistics.summary import probability_calibration, sweep_patients, threshold_curves
from sa2va_ray.metrics import THRESHOLDS, bootstrap_interval, calibration_counts, dequantise, probability_counts
from sa2va_ray.metrics.patients import PatientCurves
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.telemetry import LOGGER, Progress, configure_logging, log_result

_EVERY = 8  # of the thresholds in the manifest's summary of the curve
_Row = dict[str, Any]


@dataclass(frozen=True)
class _Choice:
    """What was found best.

    Attributes:
        values: (patients,), the objective of each.
        scores: what each clean-up gives, if they were tried.
    """

    threshold: float
    cleanup: CleanupConfig
    values: np.ndarray
    scores: CleanupScores | None


def calibrate(config: CalibrateConfig) -> dict[str, Any]:
    """Writes `threshold`, `cleanup` and `calibration` to the model's manifest, whose hash stays, as it is that of the
    files; and `calibration.html`. Returns the three.

    The objective is a mean over patients. Its value at the threshold that it chose is somewhat too good: the test split
    tells how good the model is.

    Raises:
        UserError: model, data or storage do not work; the split is empty, was trained on, or is for testing; no
            threshold reaches the target.
    """
    configure_logging()
    storage.check_outside(config.out or config.model, {"data_uri": config.data_uri})
    split, model = Split.read(config.data_uri, config.split), MeasuredModel.read(config.model)
    _refuse_test_split(config)
    model.refuse_if_trained_on(split, config.allow_train_split)
    out = config.out or config.model
    for uri in {config.model, out}:
        storage.check_writable(uri)
    connect()
    answers = answer_questions(model, split, config)
    if config.tune_cleanup:  # they are looked at twice
        with user_errors(answers), Progress("answer", split.num_images):
            answers = answers.materialize()
    rows = _count(answers, split)
    curves = sweep_patients(rows_of_objective(rows, config), config.beta or 1.0)
    choice = _choose(answers, split, curves, config)
    facts = _facts(choice, curves, rows, split, config)
    page = render_calibration(
        model, split, facts, threshold_curves(curves), probability_calibration(rows), choice.scores
    )
    storage.write_bytes(storage.join(out, "calibration.html"), page)
    model.store(facts)
    LOGGER.info("calibrated: threshold %.4f, %s %.4f", choice.threshold, config.objective, choice.values.mean())
    report = storage.join(out, "calibration.html")
    log_result(report, "jobs.evaluate", f"model={config.model}", f"data_uri={config.data_uri}", "out=EVALUATION")
    return facts


def _refuse_test_split(config: CalibrateConfig) -> None:
    if config.split == "test" and not config.allow_test_split:
        raise UserError(
            "A threshold that is chosen on the test split makes every later score on it too good. Take split=val, or "
            "say allow_test_split=true; evaluations on that split then say so."
        )


def _count(answers: ray.data.Dataset, split: Split) -> list[_Row]:
    """Rows with `counts` of `probability_counts` and `reliability` of `calibration_counts`, in the order of samples."""
    counted = answers.map_batches(partial(_count_batch, split=split), batch_size=BATCH_SIZE, num_cpus=CPUS_PER_TASK)
    rows = list(collect(counted, "calibrate", split.num_images))
    return sorted(rows, key=lambda row: (row["row"], row["place"]))


def _count_batch(batch: Mapping[str, np.ndarray], split: Split) -> dict[str, list]:
    rows = []
    for each, truth in with_truths(batch, split):
        levels, labels = read_levels(each, truth.mask.shape)[truth.counts], truth.mask[truth.counts]
        kept = {name: each[name] for name in ("row", "place", "sample_id", "patient_id")}
        counts, reliability = probability_counts(levels, labels), calibration_counts(dequantise(levels), labels)
        facts = {"failure": failure_of(each, truth), "is_negative": not truth.mask.any()}
        rows.append({**kept, **facts, "counts": counts, "reliability": reliability})
    return to_columns(rows)


def _choose(answers: ray.data.Dataset, split: Split, curves: PatientCurves, config: CalibrateConfig) -> _Choice:
    place = choose_threshold(curves, config)
    threshold = float(THRESHOLDS[place])
    if not config.tune_cleanup:
        return _Choice(threshold, CleanupConfig(), curves.values[config.objective][:, place], None)
    scores = try_cleanups(answers, split, threshold, config)
    best = choose_cleanup(scores, config)
    return _Choice(threshold, CLEANUPS[best], scores.of_objective.values[config.objective][:, best], scores)


def _facts(
    choice: _Choice, curves: PatientCurves, rows: Sequence[_Row], split: Split, config: CalibrateConfig
) -> dict[str, Any]:
    """What goes into the manifest."""
    warn_of_choice(choice.threshold, len(curves.patients))
    probabilities = probability_calibration(rows)
    calibration = {
        "objective": config.objective,
        "beta": config.beta,
        "recall_target": config.recall_target,
        "value": float(choice.values.mean()),
        "interval_95": bootstrap_interval(choice.values.tolist()),
        "num_images": split.num_images,
        "num_patients": len(curves.patients),
        "num_without_mask": sum(bool(row["failure"]) for row in rows),
        "data_sha256": split.data_sha256,
        "split": split.name,
        "split_sha256": split.sha256,
        "curve": {
            "thresholds": THRESHOLDS[_EVERY - 1 :: _EVERY].tolist(),
            **{
                name: curves.mean(name)[_EVERY - 1 :: _EVERY].round(4).tolist()
                for name in ("dice", "precision", "recall")
            },
        },
        "expected_calibration_error": probabilities["ece"],
        "brier": probabilities["brier"],
        "tool_version": __version__,
    }
    return {"threshold": choice.threshold, "cleanup": choice.cleanup.model_dump(), "calibration": calibration}
