"""Axes and places of charts, and which images are drawn."""

import numpy as np
import pytest

from sa2va_ray.evaluate.report.extremes import _places
from sa2va_ray.evaluate.report.wording import describe_cleanup, distinct_names, verdict
from sa2va_ray.metrics import CATALOGUE
from sa2va_ray.pictures.charts import Chart, Layer, linear_axis, unit_axis
from sa2va_ray.predict.cleanup import CleanupConfig


@pytest.mark.parametrize("high", [1e-4, 0.013, 0.9, 1, 3, 7.2, 10, 49, 251, 12_345, 0])
def test_ticks_are_round_few_and_hold_the_values(high):
    axis = linear_axis("px", 0, high)
    values = [value for value, _ in axis.ticks]
    assert 2 <= len(values) <= 9
    assert axis.low == values[0] == 0
    assert axis.high == values[-1] >= high
    assert len({text for _, text in axis.ticks}) == len(values)
    np.testing.assert_allclose([float(text.replace(",", "")) for _, text in axis.ticks], values, rtol=1e-9)


def test_where_all_values_are_zero_the_axis_is_one_long():
    assert linear_axis("px", 0, 0) == linear_axis("px", 0, 1)


def test_counts_have_whole_ticks():
    assert [text for _, text in linear_axis("images", 0, 3, least_step=1).ticks] == ["0", "1", "2", "3"]


def test_places_run_from_left_to_right_and_from_bottom_to_top():
    chart = Chart("", "", unit_axis("x"), unit_axis("y"), [Layer("", "one")])
    assert chart.path([(0, 0), (1, 1), (2, -1)]) == "58.0,244.0 532.0,34.0 532.0,244.0"


@pytest.mark.parametrize("num_images", [1, 2, 3, 5, 8, 9, 13, 100])
def test_best_median_and_worst_are_different_images(num_images):
    places = _places(num_images)
    drawn = [place for of_rank in places.values() for place in of_rank]
    assert len(set(drawn)) == len(drawn) <= 9
    assert num_images - 1 in places["worst"]
    if num_images > 1:
        assert 0 in places["best"]
    if num_images >= 3:
        assert {(num_images - 1) // 2, num_images // 2} & set(places["median"])


def test_what_an_interval_of_a_difference_says():
    def said(metric: str, *interval: float) -> str:
        return verdict({"interval_95": interval}, CATALOGUE[metric])

    assert said("dice", 0.01, 0.02) == said("hd95", -3, -1) == "better"
    assert said("dice", -0.02, -0.01) == said("hd95", 1, 3) == "worse"
    assert said("dice", -0.01, 0.02) == "no difference shown"
    assert verdict({"interval_95": None}, CATALOGUE["dice"]) == "one patient: cannot be told"


def test_texts():
    assert describe_cleanup(CleanupConfig()) == "without clean-up"
    assert describe_cleanup(CleanupConfig(max_hole_px=5)) == "clean-up max_hole_px 5"
    model = {"name": "m", "sha256": "a" * 64, "threshold": 0.5}
    assert distinct_names(model, model | {"name": "n"}) == ("m", "n")
    assert distinct_names(model, model | {"sha256": "b" * 64}) == ("m aaaaaa", "m bbbbbb")
    assert distinct_names(model, model | {"threshold": 0.25}) == ("m at 0.5", "m at 0.25")
