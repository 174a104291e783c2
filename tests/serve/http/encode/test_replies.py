"""From what a model found to a reply, and from what goes wrong on the way to a problem."""

import io

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.predict.cleanup import NO_CLEANUP
from sa2va_ray.predict.predictor import Prediction
from sa2va_ray.serve.http.encode.output_forms import OUTPUT_FORMS
from sa2va_ray.serve.http.encode.polygons import num_points
from sa2va_ray.serve.http.encode.replies import encode_reply, encode_union_png
from sa2va_ray.serve.http.label_studio.replies import encode_prediction
from sa2va_ray.serve.http.model_handles import SegmentedImage
from sa2va_ray.serve.http.record import RequestRecord
from sa2va_ray.serve.messages import Calibration, ModelReply, PromptResult
from sa2va_ray.serve.problems import Problem

NOISE = np.random.default_rng(0).random((1, 40, 50)) > 0.5
LABELS = LabelConfig("tag", "image", "image", ("Vessel",))


def segmentation(output: str) -> SegmentedImage:
    prediction = Prediction("[SEG]", NOISE, NOISE.astype(np.float32), 1.0, 0.5, NO_CLEANUP)
    result = PromptResult.from_prediction(prediction, with_probabilities=output == "probability")
    reply = ModelReply((result,), Calibration("0" * 64, 0.5, NO_CLEANUP), 1.0)
    return SegmentedImage("tiny", ("vessels",), output, reply, 40, 50)


@pytest.mark.parametrize("output", OUTPUT_FORMS)
def test_every_form_ends_the_stage_encode(output):
    body, picture = RequestRecord("a"), RequestRecord("b")
    encode_reply(10**6, segmentation(output), body)
    png = encode_union_png(segmentation(output), picture).body
    assert "encode" in body.timing_ms
    assert "encode" in picture.timing_ms
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))) > 0, NOISE[0])


def test_outlines_of_noise_are_refused_by_their_number():
    most = num_points(NOISE[0])
    encode_reply(most, segmentation("polygons"), RequestRecord("a"))
    encode_prediction(LABELS, most, segmentation("rle"), RequestRecord("a"))
    with pytest.raises(Problem, match=f"{most:,} points"):
        encode_reply(most - 1, segmentation("polygons"), RequestRecord("a"))
    with pytest.raises(Problem, match=f"{most:,} points"):
        encode_prediction(LABELS, most - 1, segmentation("rle"), RequestRecord("a"))
    encode_reply(0, segmentation("rle"), RequestRecord("a"))
