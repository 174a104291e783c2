import numpy as np
import pytest

from sa2va_ray.images.brush_rle import mask_to_brush_rle
from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.label_studio.prediction import model_version
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.predict.predictor import Prediction
from sa2va_ray.serve.http.label_studio.replies import predict_reply, setup_reply, task_prediction
from sa2va_ray.serve.messages import Calibration, ModelReply, PromptResult
from sa2va_ray.serve.problems import Problem

SHA256 = "0123456789abcdef" * 4
VERSION = model_version("octa", SHA256)
BROKEN = Problem(422, "Broken image", "It ends early.", "Send it again.")
CONFIG = LabelConfig("brush", "photo", "scan", ("Vessel", "Nerve"))


def result(masks, score):
    prediction = Prediction("", masks, masks.astype(np.float32), score, 0.5, CleanupConfig())
    return PromptResult.from_prediction(prediction, with_probabilities=False)


def test_replies():
    assert setup_reply(VERSION) == {"model_version": "octa@0123456789ab"}
    masks = np.zeros((2, 4, 6), bool)
    masks[0, 1, 2] = True
    reply = ModelReply((result(masks, 0.5), result(masks[:0], 0.0)), Calibration(SHA256, 0.5, CleanupConfig()), 1.0)
    predictions = [task_prediction(CONFIG, "octa", reply), BROKEN]
    first, second = predict_reply(predictions, VERSION, "a1")["results"]
    assert second["model_version"] == "octa@0123456789ab failed: Broken image"
    assert (second["result"], second["problem"]["request_id"]) == ([], "a1")
    assert (first["score"], first["model_version"]) == (0.25, "octa@0123456789ab")
    (region,) = first["result"]
    assert region.pop("id")
    value = region.pop("value")
    assert region == {
        "from_name": "brush",
        "to_name": "photo",
        "type": "brushlabels",
        "original_height": 4,
        "original_width": 6,
        "image_rotation": 0,
        "score": 0.5,
    }
    assert (value["format"], value["brushlabels"]) == ("rle", ["Vessel"])
    assert value["rle"] == mask_to_brush_rle(masks[0])


def test_tasks_that_failed_are_told_as_the_requests_problem_where_asking_again_may_help():
    fine = {"result": [], "score": 0.5, "model_version": VERSION}
    busy = Problem(503, "Too busy", "All replicas are busy.", "Try again.", retry_after_s=1)
    for predictions, raised in (([fine, BROKEN, busy], busy), ([BROKEN, BROKEN], BROKEN)):
        with pytest.raises(Problem) as caught:
            predict_reply(predictions, VERSION)
        assert caught.value is raised
    assert predict_reply([], VERSION) == {"results": []}
