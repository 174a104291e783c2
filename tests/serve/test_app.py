"""The endpoint: local_cpu.yaml deployed on a real cluster, asked over HTTP."""

import base64
import io
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from sa2va_ray.config import UserError
from sa2va_ray.data.masks import rle_to_mask
from sa2va_ray.demo.request import post_image, wait_ready
from sa2va_ray.demo.stack import SCRIPTS_DIR, free_port
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor
from sa2va_ray.serve.app import build_app
from sa2va_ray.serve.config import ServeArgs

ROOT = Path(__file__).parents[2]
PROMPT = "Please segment the blood vessels."
HTTP = httpx.Client(timeout=60)  # two busy cores may take longer than the default of 5 s


@pytest.fixture(scope="module")
def endpoint(stack, exported_uri, tmp_path_factory) -> Iterator[str]:
    config = yaml.safe_load((ROOT / "serve_configs/local_cpu.yaml").read_text())
    config["http_options"]["port"] = port = free_port(preferred=8000)
    config["applications"][0]["args"] |= {"model": exported_uri, "max_image_pixels": 500_000, "max_upload_bytes": 10**6}
    path = tmp_path_factory.mktemp("serve") / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    subprocess.run([SCRIPTS_DIR / "serve", "deploy", path], check=True, timeout=120, capture_output=True)
    wait_ready(f"http://127.0.0.1:{port}")
    yield f"http://127.0.0.1:{port}"
    subprocess.run([SCRIPTS_DIR / "serve", "shutdown", "--yes"], check=True, timeout=120, capture_output=True)


@pytest.fixture(scope="module")
def predictor(exported_uri):
    return Sa2VAPredictor.from_pretrained(exported_uri)


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 80, 3), np.uint8))


@pytest.fixture(scope="module")
def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_form_gets_the_predictors_masks(endpoint, predictor, image, png):
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"prompt": PROMPT, "threshold": "0.4"})
    assert reply.status_code == 200, reply.text
    body = reply.json()
    expected = predictor.predict([Query(image, PROMPT, threshold=0.4)])[0]
    assert body["text"] == expected.text
    assert (body["height"], body["width"], body["threshold"]) == (60, 80, 0.4)
    assert body["model"] == {"name": "tiny", "sha256": predictor.sha256, "threshold": 0.5}
    masks = [rle_to_mask(mask["rle"]) for mask in body["masks"]]
    np.testing.assert_array_equal(np.array(masks).reshape(-1, 60, 80), expected.masks)
    assert set(body["timing_ms"]) == {"decode", "predict", "encode"}


def test_json_and_form_agree_and_the_prompt_has_a_default(endpoint, png):
    as_json = HTTP.post(f"{endpoint}/v1/segment", json={"image": base64.b64encode(png).decode()}).json()
    as_form = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}).json()
    assert as_json["masks"] == as_form["masks"]
    assert as_json["prompt"] == as_form["prompt"] == PROMPT
    assert as_json["request_id"] != as_form["request_id"]


def test_png_in_png_out(endpoint, predictor, image, png):
    mask = np.asarray(Image.open(io.BytesIO(post_image(endpoint, png))))
    np.testing.assert_array_equal(mask > 0, predictor.predict([Query(image, PROMPT)])[0].union())


def test_concurrent_requests_keep_their_own_images(endpoint, predictor):
    """Images of different sizes, asked at the same time, so that batches mix them."""
    images = [Image.fromarray(np.full((20 + 5 * i, 30 + i, 3), 10 * i, np.uint8)) for i in range(8)]

    def encoded(one: Image.Image) -> bytes:
        buffer = io.BytesIO()
        one.save(buffer, "PNG")
        return buffer.getvalue()

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda one: HTTP.post(f"{endpoint}/v1/segment", files={"file": encoded(one)}), images))
    for one, reply in zip(images, replies, strict=True):
        body = reply.json()
        assert (body["height"], body["width"]) == (one.height, one.width)
        assert body["text"] == predictor.predict([Query(one, PROMPT)])[0].text


@pytest.mark.parametrize(
    ("request_arguments", "status", "title"),
    [
        ({"files": {"file": b"this is no image"}}, 415, "Not an image"),
        ({"files": {"file": b""}}, 415, "Not an image"),
        ({"data": {"prompt": "a"}, "files": {"other": b"x"}}, 422, "No image"),
        ({"json": {"prompt": "a"}}, 422, "No image"),
        ({"json": {"image": "no base64!"}}, 422, "Not base64"),
        ({"json": ["a"]}, 422, "Not an object"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "Not JSON"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "Unsupported content type"),
        ({"files": {"file": bytes(1_000_001)}}, 413, "Request too large"),
    ],
)
def test_bad_requests_get_a_problem_document(endpoint, request_arguments, status, title):
    reply = HTTP.post(f"{endpoint}/v1/segment", **request_arguments)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert (body["status"], body["title"]) == (status, title)
    assert body["detail"]
    assert body["cure"]


def test_unknown_fields_wrong_values_broken_and_huge_images(endpoint, png):
    huge = io.BytesIO()
    Image.new("L", (1000, 1000)).save(huge, "PNG")
    for files, fields, status, title in (
        ({"file": png}, {"promt": "a"}, 422, "Wrong field"),
        ({"file": png}, {"threshold": "1.5"}, 422, "Wrong field"),
        ({"file": png[: len(png) // 2]}, {}, 422, "Broken image"),
        ({"file": huge.getvalue()}, {}, 413, "Image too large"),
    ):
        reply = HTTP.post(f"{endpoint}/v1/segment", files=files, data=fields)
        assert (reply.status_code, reply.json()["title"]) == (status, title)


def test_health_and_model(endpoint, predictor):
    assert HTTP.get(f"{endpoint}/livez").status_code == 200
    assert HTTP.get(f"{endpoint}/readyz").status_code == 200
    assert HTTP.get(f"{endpoint}/v1/model").json()["sha256"] == predictor.sha256


def test_the_application_is_on_the_dashboard(stack, endpoint):
    headers = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    status = HTTP.get(f"{stack.dashboard_url}/api/serve/applications/", headers=headers).json()
    assert status["applications"]["sa2va"]["status"] == "RUNNING"
    runs = HTTP.get(f"{stack.dashboard_url}/api/train/v2/runs/v1", headers=headers).json()
    assert "submitted" in {run["name"] for run in runs["train_runs"]}


def test_a_folder_that_is_no_model_is_refused_before_a_replica_starts(tmp_path):
    with pytest.raises(UserError, match="not a complete exported model"):
        build_app(ServeArgs(model=str(tmp_path)))
