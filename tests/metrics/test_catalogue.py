"""The one list of metrics."""

from pathlib import Path

import numpy as np
import pytest

from sa2va_ray.metrics import CATALOGUE, METRICS, VALIDATION_METRICS, cldice, compute_metrics, surface_metrics
from sa2va_ray.metrics.catalogue import HEADLINE_METRICS

DOC = Path(__file__).parents[2] / "docs/en/evaluate.md"
RANDOM = np.random.default_rng(0)
PREDICTION, TRUTH = RANDOM.random((2, 40, 60)) > 0.6


def test_every_metric_is_computed_by_its_entry():
    values = compute_metrics(PREDICTION, TRUTH)
    assert tuple(values) == METRICS
    assert all(np.isfinite(value) for value in values.values())
    assert values["cldice"] == cldice(PREDICTION, TRUTH)
    assert set(VALIDATION_METRICS) | set(HEADLINE_METRICS) <= set(METRICS)


def test_only_what_is_asked_for_is_computed_and_the_tolerance_counts():
    assert compute_metrics(PREDICTION, TRUTH, ["recall"]).keys() == {"recall"}
    far = compute_metrics(PREDICTION, TRUTH, ["surface_dice"], tolerance_px=3)
    assert far["surface_dice"] == surface_metrics(PREDICTION, TRUTH, 3)["surface_dice"] > 0.9


@pytest.mark.parametrize("name", METRICS)
def test_equal_masks_are_best_and_an_empty_one_is_worse(name):
    best, worse = (compute_metrics(mask, TRUTH, [name])[name] for mask in (TRUTH, np.zeros_like(TRUTH)))
    assert best == (1 if CATALOGUE[name].higher_is_better else 0)
    assert (best > worse) == CATALOGUE[name].higher_is_better
    assert CATALOGUE[name].title.endswith("↑" if CATALOGUE[name].higher_is_better else "↓")


def test_values_as_people_read_them():
    dice, hd95 = CATALOGUE["dice"], CATALOGUE["hd95"]
    assert (dice.format(0.12345), hd95.format(12.345)) == ("0.123", "12.3")
    assert [dice.format_difference(value) for value in (0.12, -0.12, 0.0001)] == [
        "+0.120",
        "\N{MINUS SIGN}0.120",
        "0.000",
    ]
    bounds = [dice.format_bound(value) for value in (0.0001, -0.0001, 0.0)]
    assert bounds == ["+0.000", "\N{MINUS SIGN}0.000", "0.000"]
    assert hd95.title == "HD95, px ↓"


def test_the_docs_have_a_row_for_every_metric():
    table = DOC.read_text().split("## What is measured")[1].split("\n\n")[1].lower()
    assert [metric.label for metric in CATALOGUE.values() if metric.label.lower() not in table] == []
