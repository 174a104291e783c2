"""The human ceiling: what people reach who are measured as a model is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sa2va_ray.metrics import CATALOGUE, METRICS
from sa2va_ray.metrics.catalogue import HEADLINE_METRICS
from sa2va_ray.metrics.patients import Row, intervals, over_patients, paired_differences, per_image, per_patient


def human_ceiling(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Of the images of several annotators: `people`, each annotator against the consensus of the others, and `model`,
    the model against the same, both as means over images and patients with intervals; and their paired `differences`,
    the model less the people. None where no image has several.

    Args:
        rows: each with `people` of `measure_people`, and the `consensus` by which it was made.
    """
    several = [row for row in rows if not np.isnan(row["people"]).any()]
    if not several:
        return None
    people, model = ([_of(row, place) for row in several] for place in (0, 1))
    return {
        "consensus": several[0]["consensus"],
        "num_images": len({(row["patient_id"], row["sample_id"]) for row in several}),
        "num_patients": len({row["patient_id"] for row in several}),
        "people": _scores(people),
        "model": _scores(model),
        "differences": paired_differences(per_patient(model, METRICS), per_patient(people, METRICS), METRICS),
    }


def _of(row: Row, place: int) -> Row:
    ids = {name: row[name] for name in ("patient_id", "sample_id")}
    return ids | dict(zip(METRICS, np.asarray(row["people"])[place].tolist(), strict=True))


def _scores(rows: Sequence[Row]) -> dict[str, Any]:
    patients = per_patient(rows, METRICS)
    return {
        "per_image": per_image(rows, METRICS),
        "per_patient": over_patients(patients, METRICS),
        "interval_95": intervals(patients, METRICS),
    }


def describe_ceiling(ceiling: Mapping[str, Any], name: str) -> str:
    """E.g. "human ceiling on 9 images of 3 patients, against the consensus of the other annotators: people Dice 0.810
    (0.790 to 0.830), clDice ...; octa there Dice ...", of a model of that name."""
    people, model = (
        ", ".join(_with_interval(ceiling[who], name) for name in HEADLINE_METRICS) for who in ("people", "model")
    )
    return (
        f"human ceiling on {ceiling['num_images']} image(s) of {ceiling['num_patients']} patient(s), against the "
        f"consensus of the other annotators: people {people}; {name} there {model}"
    )


def _with_interval(scores: Mapping[str, Any], name: str) -> str:
    metric, interval = CATALOGUE[name], scores["interval_95"][name]
    between = f" ({metric.format(interval[0])} to {metric.format(interval[1])})" if interval else ""
    return f"{metric.label} {metric.format(scores['per_patient'][name])}{between}"
