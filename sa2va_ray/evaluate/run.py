"""Evaluates a model, or two, on one split of a prepared data set."""

import json
from collections.abc import Sequence
from typing import Any

from sa2va_ray import __version__, storage
from sa2va_ray.cluster.resources import connect
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.evaluate.inputs import MeasuredModel, Split
from sa2va_ray.evaluate.passes.answers import answer_questions
from sa2va_ray.evaluate.passes.measure import measure_answers
from sa2va_ray.evaluate.report.evaluation_page import render_evaluation
from sa2va_ray.evaluate.report.extremes import draw_extremes
from sa2va_ray.evaluate.report.wording import (
    describe_ceilings,
    describe_difference,
    describe_one_mask,
    describe_silences,
)
from sa2va_ray.evaluate.statistics.summary import (
    by_phrase,
    by_width,
    differences,
    precision_recall,
    probability_calibration,
    summarize,
    sweep_patients,
    threshold_curves,
)
from sa2va_ray.metrics import METRICS
from sa2va_ray.telemetry import LOGGER, configure_logging, log_result

_Row = dict[str, Any]


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measures, writes `metrics.json`, `images.jsonl` and `report.html` to `config.out`, and returns the first.

    Every image of the split counts: an answer without a mask, or an image that cannot be read, as an empty mask, which
    is listed.

    Raises:
        UserError: model, data or storage do not work; the split is empty, or was trained on.
    """
    configure_logging()
    inputs = {"model": config.model, "against": config.against, "data_uri": config.data_uri}
    storage.check_outside(config.out, inputs)
    split = Split.read(config.data_uri, config.split)
    models = [MeasuredModel.read(uri) for uri in (config.model, config.against) if uri]
    for model in models:
        model.refuse_if_trained_on(split, config.allow_train_split)
    storage.check_writable(config.out)
    connect()
    measured = [
        measure_answers(answer_questions(model, split, config), split, config.surface_tolerance_px) for model in models
    ]
    rows, result = measured[0], _result(config, split, models, measured)
    names = ("images.jsonl", "images_against.jsonl")[: len(measured)]
    for name, of_model in zip(names, measured, strict=True):
        storage.write_bytes(storage.join(config.out, name), _to_lines(of_model))
    storage.write_bytes(
        storage.join(config.out, "report.html"), render_evaluation(result, rows, draw_extremes(rows, split))
    )
    storage.write_bytes(storage.join(config.out, "metrics.json"), (json.dumps(result, indent=2) + "\n").encode())
    for told in describe_ceilings(result):
        LOGGER.info("%s", told)
    scores = ", ".join(f"{name} {result['per_patient'][name]:.4f}" for name in METRICS)
    LOGGER.info("evaluated, means over %d patient(s): %s", result["num_patients"], scores)
    if config.against:
        LOGGER.info("%s", describe_difference(result))
    for told in filter(None, [*describe_silences(result), describe_one_mask(result)]):
        LOGGER.warning("%s", told)
    report = storage.join(config.out, "report.html")
    log_result(report, "jobs.predict", f"model={config.model}", "source=IMAGES", "out=PREDICTIONS")
    return result


def _result(
    config: EvaluateConfig, split: Split, models: Sequence[MeasuredModel], measured: Sequence[list[_Row]]
) -> dict[str, Any]:
    """The content of `metrics.json`."""
    rows = measured[0]
    result = {
        "model": _facts(models[0], split),
        "data_sha256": split.data_sha256,
        "split": split.name,
        "split_sha256": split.sha256,
        "surface_tolerance_px": config.surface_tolerance_px,
        "tta": config.tta,
        "tool_version": __version__,
        **summarize(rows),
        "by_phrase": by_phrase(rows),
        "threshold_curves": threshold_curves(sweep_patients(rows)),
        "precision_recall": precision_recall(rows),
        "probability_calibration": probability_calibration(rows),
        "by_width": by_width(rows),
    }
    if config.against:
        result["against"] = {"model": _facts(models[1], split), **summarize(measured[1])}
        result["differences"] = differences(*measured)
    return result


def _facts(model: MeasuredModel, split: Split) -> dict[str, Any]:
    facts = model.facts
    return {
        "name": facts.name,
        "kind": facts.kind,
        "sha256": facts.sha256,
        "checkpoint_sha256": model.manifest.get("checkpoint_sha256"),
        "threshold": facts.threshold,
        "cleanup": facts.cleanup.model_dump(),
        "was_trained_on_split": model.was_trained_on(split),
        "was_calibrated_on_split": model.was_calibrated_on(split),
    }


def _to_lines(rows: Sequence[_Row]) -> bytes:
    """A line of JSON for each object: pseudonyms, hash of the mask and metrics."""
    kept = ("sample_id", "patient_id", "phrase", "is_negative", "has_mask", "failure", "mask_sha256", *METRICS)
    return "".join(json.dumps({name: row[name] for name in kept}) + "\n" for row in rows).encode()
