import base64
import time

import cv2
import numpy as np
import pytest

from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.predict.predictor import Prediction
from sa2va_ray.serve.http.label_studio.replies import (
    LabelConfig,
    brush_rle_to_mask,
    mask_to_brush_rle,
    model_version,
    predict_reply,
    read_data_uri,
    read_label_config,
    read_tasks,
    setup_reply,
    task_prediction,
)
from sa2va_ray.serve.messages import Answers, Finding
from sa2va_ray.serve.problems import Problem

SHA256 = "0123456789abcdef" * 4
VERSION = model_version("octa", SHA256)
BROKEN = Problem(422, "Broken image", "It ends early.", "Send it again.")
CONFIG = """
<View>
  <Header value="Vessels"/>
  <Image name="photo" value="$scan" zoom="true"/>
  <Choices name="quality" toName="photo"><Choice value="good"/></Choices>
  <BrushLabels name="brush" toName="photo"><Label value="Vessel" background="red"/><Label value="Nerve"/></BrushLabels>
</View>
"""


def decoded_by_the_book(rle):
    """The format's own description, bit by bit: values, as rle-pack's `decode` gives them."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    num, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < num:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(bits) - at < 8
    return np.array(values, np.uint8)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((1, 1), bool),
        np.ones((1, 1), bool),
        np.eye(20, dtype=bool),
        np.ones((200, 300), bool),  # a run longer than 2**16
        np.ones((128, 128), bool),  # of 2**16 exactly
        np.random.default_rng(0).random((37, 53)) < 0.5,
        np.random.default_rng(0).random((90, 400)) < 0.01,  # runs of each of the four kinds
    ],
)
def test_run_lengths_are_the_mask_as_rgba(mask):
    rle = mask_to_brush_rle(mask)
    assert all(type(byte) is int and 0 <= byte < 256 for byte in rle)
    np.testing.assert_array_equal(decoded_by_the_book(rle), np.repeat(mask.ravel(), 4) * np.uint8(255))
    np.testing.assert_array_equal(brush_rle_to_mask(rle, *mask.shape), mask)


def test_known_bytes():
    """One white pixel: 4 values; 8 bits a value; lengths of 3, 4, 8, 16 bits; a run of kind 0, length 4, value 255."""
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "11111111"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    assert mask_to_brush_rle(np.ones((1, 1), bool)) == [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_values_one_by_one_are_read_too():
    """As Label Studio's own front end writes them where values change often: two pixels, alpha 0 and 100."""
    values = [10, 20, 30, 0, 255, 255, 255, 100]
    bits = f"{8:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    bits += "0" + "00" + "111" + "".join(f"{value:08b}" for value in values)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    rle = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert brush_rle_to_mask(rle, 1, 2).tolist() == [[False, True]]


def test_broken_run_lengths_are_refused():
    rle = mask_to_brush_rle(np.random.default_rng(0).random((10, 10)) < 0.5)
    with pytest.raises(ValueError, match="cut off"):
        brush_rle_to_mask(rle[: len(rle) // 2], 10, 10)
    with pytest.raises(ValueError, match="400 values"):
        brush_rle_to_mask(rle, 10, 11)
    with pytest.raises(ValueError, match="cut off"):
        brush_rle_to_mask([0], 1, 1)


def test_a_large_mask_takes_no_long():
    canvas = np.zeros((2048, 2048), np.uint8)
    for radius in range(20, 1000, 20):
        cv2.circle(canvas, (1024, 1024), radius, 1, 3)
    started = time.process_time()
    mask_to_brush_rle(canvas.astype(bool))
    assert time.process_time() - started < 3


def test_label_config():
    assert read_label_config(CONFIG) == LabelConfig("brush", "photo", "scan", ("Vessel", "Nerve"))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("", "not XML"),
        ("<View>", "not XML"),
        ("<View>\x00</View>", "not XML"),
        ("<View/>", "no BrushLabels"),
        ('<View><BrushLabels name="a" toName="b"><Label value="c"/></BrushLabels></View>', "no Image"),
        (CONFIG.replace("$scan", "scan"), "no Image"),
        (CONFIG.replace(' value="Vessel"', ""), "without a value"),
        ('<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + CONFIG, "DTD"),
        ('<?xml version="1.0"?><!DOCTYPE v SYSTEM "file:///etc/passwd"><View/>', "DTD"),
        (CONFIG.replace("Nerve", "&xxe;"), "not XML"),
    ],
)
def test_wrong_label_config(config, says):
    with pytest.raises(Problem, match=says) as caught:
        read_label_config(config)
    assert caught.value.status == 422


def test_tasks():
    body = {
        "tasks": [{"id": 3, "data": {"scan": "s3://bucket/a.png", "note": 1}}, {"id": 5, "data": {"scan": "data:,x"}}],
        "project": "1.1700000000",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }
    config, tasks = read_tasks(body, max_tasks=9)
    assert config.labels == ("Vessel", "Nerve")
    assert tasks == [(3, "s3://bucket/a.png"), (5, "data:,x")]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"tasks": [], "label_config": None},
        {"tasks": {}, "label_config": CONFIG},
        {"tasks": ["a"], "label_config": CONFIG},
        {"tasks": [{"id": "3", "data": {"scan": "a"}}], "label_config": CONFIG},
        {"tasks": [{"id": 3, "data": {"image": "smith_john.png"}}], "label_config": CONFIG},
        {"tasks": [{"id": 3, "data": ["smith_john.png"]}], "label_config": CONFIG},
    ],
)
def test_wrong_bodies(body):
    with pytest.raises(Problem) as caught:
        read_tasks(body, max_tasks=9)
    assert caught.value.status == 422
    assert "smith" not in str(caught.value.document())


@pytest.mark.parametrize("label", ["a" * 2000, "a" * 3000, "a\ud800", "a\0"])
def test_labels_that_cannot_be_asked_for(label):
    config = CONFIG.replace("Nerve", label)
    with pytest.raises(Problem) as caught:
        read_label_config(config)
    assert (caught.value.status, label in str(caught.value.document())) == (422, False)


def test_data_uris():
    data = bytes(range(256))
    assert read_data_uri("data:image/png;base64," + base64.b64encode(data).decode()) == data
    assert read_data_uri("data:image/png;base64," + base64.b64encode(data).decode().replace("+", "%2B")) == data
    assert read_data_uri("data:,a%20b") == b"a b"
    halves = ("data:;base64,\ud800", "data:,\ud800", "data:;base64,\xfc")
    for wrong in ("data:image/png;base64,?", "data:image/png;base64", "https://a,b", *halves):
        with pytest.raises(Problem):
            read_data_uri(wrong)


def finding(masks, score):
    prediction = Prediction("", masks, masks.astype(np.float32), score, 0.5, CleanupConfig())
    return Finding.of(prediction, with_probabilities=False)


def test_replies():
    assert setup_reply(VERSION) == {"model_version": "octa@0123456789ab"}
    masks = np.zeros((2, 4, 6), bool)
    masks[0, 1, 2] = True
    answers = Answers((finding(masks, 0.5), finding(masks[:0], 0.0)), SHA256, 0.5, CleanupConfig(), 1.0)
    predictions = [task_prediction(read_label_config(CONFIG), "octa", answers), BROKEN]
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
    np.testing.assert_array_equal(brush_rle_to_mask(value["rle"], 4, 6), masks[0])


def test_tasks_that_failed_are_told_as_the_requests_problem_where_asking_again_may_help():
    fine = {"result": [], "score": 0.5, "model_version": VERSION}
    busy = Problem(503, "Too busy", "All replicas are busy.", "Try again.", retry_after_s=1)
    for predictions, raised in (([fine, BROKEN, busy], busy), ([BROKEN, BROKEN], BROKEN)):
        with pytest.raises(Problem) as caught:
            predict_reply(predictions, VERSION)
        assert caught.value is raised
    assert predict_reply([], VERSION) == {"results": []}
