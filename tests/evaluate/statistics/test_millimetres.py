"""Scores in millimetres, by hand."""

import numpy as np
import pytest

from sa2va_ray.evaluate.statistics.millimetres import in_millimetres


def row(patient: str, sample: str, hd95_mm: float, *spacing_mm: float) -> dict:
    return {"patient_id": patient, "sample_id": sample, "hd95_mm": hd95_mm, "spacing_mm": np.array(spacing_mm)}


def test_every_image_has_to_tell_its_spacing():
    rows = [row("a", "1", 0.4, 0.2, 0.2), row("a", "2", 0.2, 0.2, 0.2), row("b", "3", 0.5, 0.2, 0.2)]
    found = in_millimetres(rows)
    assert found["mm_per_px"] == pytest.approx(0.2)
    assert found["hd95"]["per_image"] == pytest.approx(1.1 / 3)
    assert found["hd95"]["per_patient"] == pytest.approx(0.4)
    assert found["hd95"]["interval_95"] == pytest.approx((0.3, 0.5))
    assert in_millimetres([*rows, row("c", "4", np.nan, np.nan, np.nan)]) is None


@pytest.mark.parametrize("other", [(0.3, 0.3), (0.2, 0.25)])
def test_spacings_that_differ_are_told_by_their_ends(other):
    found = in_millimetres([row("a", "1", 0.4, 0.2, 0.2), row("b", "2", 0.4, *other)])
    assert found["mm_per_px"] is None
    assert found["pixel_spacing_mm"] == {"least": 0.2, "greatest": max(other)}
