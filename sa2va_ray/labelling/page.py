"""The queue as one HTML file to look at. Patients and tasks are numbers on it."""

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


def render_queue(
    rows: Sequence[Mapping[str, Any]], drawn: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]
) -> bytes:
    """
    Args:
        rows: of `to_rows`.
        drawn: of `draw`.
        facts: JSON-able and without any name; shown as given. `num_left_out` (reason -> count), `model`, `label` and
            `project` must be there.
    """
    pictures = [
        Picture(_caption(row), np.frombuffer(found["pixels"], np.uint8).reshape(found["shape"]))
        for row in rows
        if (found := drawn[row["id"]])["pixels"] is not None
    ]
    values = {
        "rows": rows,
        "pictures": pictures,
        "num_patients": len({row["patient"] for row in rows}),
        "num_empty": sum(not row["area_fraction"] for row in rows),
        "facts": facts,
        "fact_rows": list(flatten(facts)),
    }
    return render_page(Path(__file__).parent / "queue.html.jinja", {"share": _share}, values)


def to_rows(queue: Sequence[Queued], tasks: Mapping[str, int]) -> list[dict[str, Any]]:
    """What the page and `queue.json` tell of each image, in the order of the queue.

    Args:
        tasks: id of an image -> number of its task in the project, if there is one.
    """
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
            "task": tasks.get(candidate.id),
        }
        for place, candidate in enumerate((each.candidate for each in queue), start=1)
    ]


def _caption(row: Mapping[str, Any]) -> str:
    task = "" if row["task"] is None else f"task {row['task']}, "
    seen = f"uncertainty {row['uncertainty']:.2f}" if row["area_fraction"] else "the model drew nothing"
    return f"{row['place']}: {task}patient {row['patient']}, {seen}, image {row['id']}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
