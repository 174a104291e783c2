"""The human ceiling, by hand."""

import numpy as np
import pytest

from sa2va_ray.evaluate.report.wording import describe_ceilings
from sa2va_ray.evaluate.statistics.people import describe_ceiling, human_ceiling
from sa2va_ray.metrics import METRICS


def row(patient: str, sample: str, people: float, model: float) -> dict:
    values = np.repeat([[people], [model]], len(METRICS), axis=1)
    return {"patient_id": patient, "sample_id": sample, "people": values, "consensus": "staple"}


def test_people_and_the_model_are_paired_on_the_images_of_several():
    rows = [row("a", "1", 0.8, 0.6), row("a", "2", 0.6, 0.6), row("b", "3", 0.9, 0.5), row("c", "4", np.nan, np.nan)]
    ceiling = human_ceiling(rows)
    assert (ceiling["consensus"], ceiling["num_images"], ceiling["num_patients"]) == ("staple", 3, 2)
    assert ceiling["people"]["per_patient"]["dice"] == pytest.approx(0.8)
    assert ceiling["people"]["per_image"]["dice"] == pytest.approx(2.3 / 3)
    assert ceiling["people"]["interval_95"]["dice"] == pytest.approx((0.7, 0.9))
    assert ceiling["model"]["per_patient"]["cldice"] == pytest.approx(0.55)
    assert ceiling["differences"]["dice"] == {"mean": pytest.approx(-0.25), "interval_95": pytest.approx((-0.4, -0.1))}
    text = describe_ceiling(ceiling, "octa")
    assert "human ceiling on 3 image(s) of 2 patient(s)" in text
    assert "people Dice 0.800 (0.700 to 0.900), clDice 0.800" in text
    assert "octa there Dice 0.550 (0.500 to 0.600)" in text


def test_of_two_models_each_line_says_whose_it_is():
    ceiling = human_ceiling([row("a", "1", 0.8, 0.6)])
    one = {"model": {"name": "octa", "sha256": "a" * 64}, "human_ceiling": ceiling}
    other = {"model": {"name": "octa", "sha256": "b" * 64}, "human_ceiling": ceiling}
    lines = describe_ceilings({**one, "against": other})
    assert [name in line for line, name in zip(lines, ("octa aaaaaa there", "octa bbbbbb there"), strict=True)] == [
        1,
        1,
    ]
    (line,) = describe_ceilings(one)
    assert "octa there" in line
    assert describe_ceilings({**one, "human_ceiling": None}) == []


def test_one_patient_has_no_interval():
    ceiling = human_ceiling([row("a", "1", 0.8, 0.6)])
    assert ceiling["people"]["interval_95"]["dice"] is None
    assert "people Dice 0.800, clDice" in describe_ceiling(ceiling, "octa")


def test_without_several_annotators_there_is_no_ceiling():
    assert human_ceiling([row("a", "1", np.nan, np.nan)]) is None
