import numpy as np
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.images.brush_rle import brush_rle_to_mask, mask_to_brush_rle
from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.label_studio.prediction import is_model_version
from sa2va_ray.labelling.candidates import Predictions
from sa2va_ray.labelling.ranking import Candidate
from sa2va_ray.labelling.tasks import Tasks, choose_label, default_interface
from sa2va_ray.predict.job.items import ImageItem
from sa2va_ray.predict.job.sources import SourceFile

PROMPT = "<image>\nPlease segment blood vessels in this image."
SHA = "ab" * 32
MASK = np.eye(8, dtype=bool)


def interface(*labels):
    return LabelConfig("brush", "img", "photo", labels)


def test_a_task_leads_back_to_image_and_model():
    row = {
        "entropy": 0.25, "disagreement": None, "height": 8, "width": 8, "score": 0.5,
        "source_sha256": "c" * 64, "model_sha256": SHA,
    }  # fmt: skip
    candidate = Candidate(ImageItem(SourceFile("image", "/d/P1/a.png", "P1/a.png"), "c" * 16, "c" * 64), "P1", row)
    tasks = Tasks(interface("vessel"), "vessel", Predictions({}, "d" * 64, "octa", SHA, PROMPT))
    task = tasks.task(candidate, "s3://bucket/P1/a.png", [mask_to_brush_rle(MASK)])
    assert task["data"] == {
        "photo": "s3://bucket/P1/a.png",
        "sa2va": {
            "id": "c" * 16, "name": "P1/a.png", "source_sha256": "c" * 64, "model_sha256": SHA, "uncertainty": 0.25,
        },
    }  # fmt: skip
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("octa@abababababab", 0.75)
    (region,) = prediction["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("brush", "img", "brushlabels")
    assert region["value"]["brushlabels"] == ["vessel"]
    np.testing.assert_array_equal(brush_rle_to_mask(region["value"]["rle"], 8, 8), MASK)


def test_the_label_is_the_one_that_was_asked_for_or_given_or_the_only_one():
    assert choose_label(interface("Nerve", "Blood vessels"), None, PROMPT) == "Blood vessels"
    assert choose_label(interface("Nerve", "Vessel"), "Vessel", PROMPT) == "Vessel"
    assert choose_label(interface("Vessel"), None, PROMPT) == "Vessel"
    with pytest.raises(UserError, match=r"2 labels of its brush \(Nerve, Vessel\), and the phrase .* label="):
        choose_label(interface("Nerve", "Vessel"), None, PROMPT)
    with pytest.raises(UserError, match="`label` is none of them"):
        choose_label(interface("Vessel"), "vessel", PROMPT)


def test_without_a_project_the_label_is_the_phrase():
    assert default_interface(None, PROMPT).labels == ("blood vessels",)
    assert default_interface("Vessel", "What is it?").labels == ("Vessel",)
    with pytest.raises(UserError, match="give label="):
        default_interface(None, "What is it?")


def test_which_versions_are_ours():
    assert is_model_version("octa 8b@0123456789ab")
    for other in ("octa@0123456789ab failed: Image not fetched", "octa@xyz", "octa", None, ""):
        assert not is_model_version(other)
