"""The queue as one HTML file to look at. Patients are numbers on it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_ray.labelling.ranking import number_patients
from sa2va_ray.labelling.tasks import Queued
from sa2va_ray.pictures.pages import flatten, render_page
from sa2va_ray.pictures.sheet import Picture

NUM_PICTURES = 100
"""Images that the page shows; all are in its table."""


def render_queue(queue: Sequence[Queued], drawn: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> bytes:
    """
    Args:
        drawn: of `draw`.
        facts: JSON-able and without any name; shown as given. `num_left_out` (reason -> count) must be there.
    """
    rows = to_rows(queue)
    pictures = [
        Picture(_caption(row), np.frombuffer(found["pixels"], np.uint8).reshape(found["shape"]))
        for row in rows
        if (found := drawn[row["id"]])["pixels"] is not None
    ]
    patients = number_patients(each.candidate for each in queue)
    values = {"rows": rows, "pictures": pictures, "num_patients": len(patients), "facts": facts}
    values |= {"fact_rows": list(flatten(facts))}
    return render_page(Path(__file__).parent / "queue.html.jinja", {"share": _share}, values)


def to_rows(queue: Sequence[Queued]) -> list[dict[str, Any]]:
    """What the page and `queue.json` tell of each image, in the order of the queue."""
    patients = number_patients(each.candidate for each in queue)
    return [
        {
            "place": place,
            "id": candidate.id,
            "source_sha256": candidate.row["source_sha256"],
            "patient": patients[candidate.patient],
            "uncertainty": candidate.uncertainty,
            "entropy": candidate.row["entropy"],
            "disagreement": candidate.row["disagreement"],
            "area_fraction": candidate.row["area_fraction"],
        }
        for place, candidate in enumerate((each.candidate for each in queue), start=1)
    ]


def _caption(row: Mapping[str, Any]) -> str:
    return f"{row['place']}: uncertainty {row['uncertainty']:.2f}, patient {row['patient']}, {row['id']}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
