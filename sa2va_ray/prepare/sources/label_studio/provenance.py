"""Where a task's label came from: its annotations, the time they took, and the prediction of ours before them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from sa2va_ray.label_studio.prediction import PROVENANCE, is_model_version
from sa2va_ray.prepare.records import Annotation, Provenance, Rejected
from sa2va_ray.prepare.sources.items import SourceOptions
from sa2va_ray.prepare.sources.label_studio.annotation import annotate, to_results
from sa2va_ray.prepare.sources.label_studio.annotators import is_submitted

_MAX_SECONDS = 10**8  # three years with one image open; JSON has numbers of any length


def of_task(task: Mapping[str, Any], options: SourceOptions) -> Provenance | None:
    """Of a task of the JSON export, or as the server gives it."""
    annotations = [each for each in task["annotations"] if is_submitted(each)]
    if not annotations:
        return None
    prediction = _first_drawn(annotations, task.get("predictions"))
    return Provenance(
        tuple(hash_of_annotation(each.get("id")) for each in annotations),
        _seconds(annotations),
        prediction.get("model_version"),
        _drawn(prediction, options) if prediction else None,
    )


def of_min_entries(entries: Sequence[Mapping[str, Any]]) -> Provenance | None:
    """Of the entries of a task in JSON-min, which has no predictions."""
    kept = [each for each in entries if each.get("annotation_id") is not None]
    hashes = tuple(hash_of_annotation(each["annotation_id"]) for each in kept)
    return Provenance(hashes, _seconds(kept)) if kept else None


def plain_name(data: Mapping[str, Any]) -> str | None:
    """Path that the image had below the source of `jobs.label_queue`; None of another task. It tells the patient."""
    told = data.get(PROVENANCE)
    name = told.get("name") if isinstance(told, dict) else None
    return name if isinstance(name, str) and PurePosixPath(name).name else None


def hash_of_annotation(number: Any) -> str:
    """What a sample has of the annotation that its mask came from (64 hex characters)."""
    return hashlib.sha256(f"label_studio/annotation/{number}".encode(errors="surrogatepass")).hexdigest()


def _seconds(annotations: Sequence[Mapping[str, Any]]) -> float | None:
    """Of all annotations together; None where one does not tell."""
    times = [each.get("lead_time") for each in annotations]
    numbers = [each for each in times if isinstance(each, int | float) and not isinstance(each, bool)]
    known = [float(each) for each in numbers if 0 <= each <= _MAX_SECONDS]
    return sum(known) if len(known) == len(times) else None


def _first_drawn(annotations: Sequence[Mapping[str, Any]], predictions: Any) -> Mapping[str, Any]:
    """The prediction of ours that an annotation says to be its parent, or that Label Studio has kept with it; else the
    task's last one. Empty where there is none."""
    of_task = [each for each in predictions if isinstance(each, dict)] if isinstance(predictions, list) else []
    parents = [each["parent_prediction"] for each in annotations if each.get("parent_prediction") is not None]
    kept = [each["prediction"] for each in annotations if isinstance(each.get("prediction"), dict)]
    choices = [*(each for each in of_task if each.get("id") in parents), *kept, *reversed(of_task)]
    return next((each for each in choices if is_model_version(each.get("model_version"))), {})


def _drawn(prediction: Mapping[str, Any], options: SourceOptions) -> Annotation | None:
    try:
        return annotate(to_results(prediction.get("result")), options)
    except Rejected:
        return None
