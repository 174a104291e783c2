import hashlib

import numpy as np
import pytest

from sa2va_ray.images.brush_rle import mask_to_brush_rle
from sa2va_ray.prepare.sources.items import SourceOptions
from sa2va_ray.prepare.sources.label_studio.provenance import of_min_entries, of_task, plain_name

OPTIONS = SourceOptions("vessel", None, 10**6)
OURS, OTHERS = "octa@0123456789ab", "yolo-v8"


def prediction(number, version=OURS, rows=4):
    mask = np.zeros((8, 8), bool)
    mask[:rows] = True
    value = {"format": "rle", "rle": mask_to_brush_rle(mask), "brushlabels": ["vessel"]}
    region = {"type": "brushlabels", "original_height": 8, "original_width": 8, "value": value}
    return {"id": number, "model_version": version, "result": [region]}


def task(*predictions, **annotation):
    return {"annotations": [{"id": 5, "result": [], "lead_time": 90.5, **annotation}], "predictions": [*predictions]}


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def num_pixels(provenance):
    (rle,) = provenance.prediction.objects["vessel"]
    from sa2va_ray.images.masks import rle_to_mask

    return int(rle_to_mask(rle).sum())


def test_the_annotation_is_told_by_the_hash_of_its_number():
    found = of_task(task(prediction(1)), OPTIONS)
    assert found.annotations_sha256 == (sha256("label_studio/annotation/5"),)
    assert (found.lead_time_s, found.model_version) == (90.5, OURS)
    entries = [{"annotation_id": 5, "lead_time": 3}, {"annotation_id": None}]
    assert of_min_entries(entries).annotations_sha256 == found.annotations_sha256


def test_an_id_that_no_text_can_be_is_told_by_a_hash_all_the_same():
    assert len(of_min_entries([{"annotation_id": "\ud800", "lead_time": 3}]).annotations_sha256[0]) == 64


def test_the_parent_counts_then_what_is_kept_then_the_last_one():
    several = [prediction(1, rows=1), prediction(2, rows=2), prediction(3, rows=3), prediction(4, OTHERS)]
    assert num_pixels(of_task(task(*several), OPTIONS)) == 24
    assert num_pixels(of_task(task(*several, parent_prediction=1), OPTIONS)) == 8
    assert num_pixels(of_task(task(*several, prediction=prediction(2, rows=2)), OPTIONS)) == 16
    assert num_pixels(of_task(task(*several, parent_prediction=[1]), OPTIONS)) == 24
    exported = task(parent_prediction=2, prediction=prediction(2, rows=2)) | {"predictions": [1, 2, 3]}
    assert num_pixels(of_task(exported, OPTIONS)) == 16


@pytest.mark.parametrize("version", [OTHERS, None, f"{OURS} failed: Image not fetched"])
def test_other_predictions_are_none_of_ours(version):
    found = of_task(task(prediction(1, version)), OPTIONS)
    assert (found.model_version, found.prediction) == (None, None)


def test_a_prediction_that_cannot_be_read_costs_nothing():
    broken = prediction(1) | {"result": [{"type": "brushlabels", "value": {"rle": "x"}}]}
    found = of_task(task(broken), OPTIONS)
    assert (found.model_version, found.prediction) == (OURS, None)


@pytest.mark.parametrize("lead_time", [None, -1, float("nan"), float("inf"), "12", 10**400, True])
def test_a_time_that_is_none_is_not_told(lead_time):
    assert of_task(task(lead_time=lead_time), OPTIONS).lead_time_s is None


def test_what_was_skipped_is_no_annotation():
    assert of_task(task(was_cancelled=True), OPTIONS) is None


def test_the_path_of_the_queue_is_the_name():
    assert plain_name({"image": "/data/upload/3/x.png", "sa2va": {"name": "P1/a.png"}}) == "P1/a.png"
    for other in ({}, {"sa2va": "P1/a.png"}, {"sa2va": {"name": 3}}, {"sa2va": {"name": ""}}, {"sa2va": {"name": "/"}}):
        assert plain_name(other) is None
