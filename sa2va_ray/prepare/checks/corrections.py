"""What people changed of what a model drew first."""

from typing import Any

import numpy as np

from sa2va_ray.prepare.checks.polygons import draw_annotation
from sa2va_ray.prepare.checks.validate import Checked
from sa2va_ray.prepare.records import Annotation, Record, Rejected


def corrections_of(record: Record, checked: Checked) -> dict[str, Any]:
    """Where a label came from, and what became of the model's masks: columns of an outcome, none where nothing is known
    of it."""
    provenance = record.provenance
    if provenance is None:
        return {}
    return {
        "annotations_sha256": list(provenance.annotations_sha256),
        "lead_time_s": provenance.lead_time_s,
        "predicted_by": provenance.model_version,
        "correction_dice": None if provenance.prediction is None else _dice(provenance.prediction, checked),
    }


def _dice(prediction: Annotation, checked: Checked) -> float | None:
    """Of all phrases together, a pixel of each counted by itself, over the pixels that count; None for a prediction
    that does not fit its image."""
    height, width = checked.pixels.shape[:2]
    try:
        drawn, _, _ = draw_annotation(prediction, height, width, None)
    except Rejected:
        return None
    counts, nothing = checked.counts, np.zeros((height, width), bool)
    pairs = [
        (drawn.get(phrase, nothing) & counts, checked.masks.get(phrase, nothing) & counts)
        for phrase in drawn.keys() | checked.masks.keys()
    ]
    both = sum(int((first & last).sum()) for first, last in pairs)
    total = sum(int(first.sum() + last.sum()) for first, last in pairs)
    return 2 * both / total if total else 1.0
