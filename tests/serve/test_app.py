"""The endpoint: local_cpu.yaml deployed on a real cluster, asked over HTTP."""

import base64
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from sa2va_ray.config import UserError
from sa2va_ray.demo.request import post_image
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.predict.predictor import Query
from sa2va_ray.serve.app import build_app
from sa2va_ray.serve.config import ServeArgs
from tests.serve.processes import replicas_of

ROOT = Path(__file__).parents[2]
PROMPT = "Please segment blood vessels in this image."
HTTP = httpx.Client(timeout=60)  # two busy cores may take longer than the default of 5 s


def assert_same_answers(first: list[dict], second: list[dict]) -> None:
    """The last bits of a number depend on how many images the model saw at once."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        exact, numbers = ("prompt", "text", "masks"), ("score", "area_fraction", "mean_confidence")
        assert [one[key] for key in exact] == [other[key] for key in exact]
        assert [one[key] for key in numbers] == pytest.approx([other[key] for key in numbers], rel=1e-5)


def masks_of(body: dict, answer: int = 0) -> np.ndarray:
    masks = [rle_to_mask(mask["rle"]) for mask in body["answers"][answer]["masks"]]
    return np.array(masks, bool).reshape(-1, body["height"], body["width"])


def test_a_form_gets_the_predictors_masks(endpoint, predictor, image, png):
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"prompt": PROMPT, "threshold": "0.4"})
    assert reply.status_code == 200, reply.text
    body = reply.json()
    expected = predictor.predict([Query(image, PROMPT, threshold=0.4)])[0]
    (answer,) = body["answers"]
    assert answer["text"] == expected.text
    assert answer["area_fraction"] == pytest.approx(expected.union().mean())
    assert (body["height"], body["width"], body["threshold"]) == (60, 80, 0.4)
    model = {"name": "tiny", "sha256": predictor.sha256, "threshold": 0.5, "cleanup": predictor.cleanup.model_dump()}
    assert body["model"] == model
    assert reply.headers["sa2va-request-id"] == body["request_id"]
    np.testing.assert_array_equal(masks_of(body), expected.masks)
    assert list(body["timing_ms"]) == ["read", "decode", "queue", "predict", "encode"]


def test_a_question_that_is_larger_than_a_whole_batch_runs_alone(endpoint):
    buffer = io.BytesIO()
    Image.new("L", (700, 700)).save(buffer, "PNG")
    data = {"model": "again", "prompt": ["vessels", "capillaries", "arteries"]}  # 1.5 megapixels, of 1
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": buffer.getvalue()}, data=data)
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["answers"]) == 3


def test_json_and_form_agree_and_the_prompt_has_a_default(endpoint, png):
    as_json = HTTP.post(f"{endpoint}/v1/segment", json={"image": base64.b64encode(png).decode()}).json()
    as_form = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}).json()
    assert as_json["answers"] == as_form["answers"]
    assert as_json["answers"][0]["prompt"] == PROMPT
    assert as_json["request_id"] != as_form["request_id"]


def test_several_prompts_and_models_have_their_own_answers(endpoint, predictor, image, png):
    prompts = [PROMPT, "What is [SEG] <|im_end|> <IMG_CONTEXT>?"]
    body = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"prompt": prompts, "model": "again"}).json()
    assert body["model"]["name"] == "again"
    assert [answer["prompt"] for answer in body["answers"]] == prompts
    for number, prompt in enumerate(prompts):
        expected = predictor.predict([Query(image, prompt)])[0]
        assert body["answers"][number]["text"] == expected.text
        np.testing.assert_array_equal(masks_of(body, number), expected.masks)
    body = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"model": "again"}).json()
    assert body["answers"][0]["prompt"] == "What is the vessel?"


def test_each_output_is_the_same_mask(endpoint, predictor, image, png):
    prediction = predictor.predict([Query(image, PROMPT)])[0]
    assert prediction.masks.any(), "the tiny model draws nothing: this test would show nothing"
    for output in ("png", "polygons", "probability"):
        body = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"output": output}).json()
        mask = body["answers"][0]["masks"][0]
        assert set(mask) == {"area_fraction", output}
        if output == "png":
            found = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["png"])))) > 0
            np.testing.assert_array_equal(found, prediction.masks[0])
        if output == "probability":
            found = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["probability"]))))
            np.testing.assert_allclose(found / 65535, prediction.probabilities[0], atol=1e-4)
        if output == "polygons":
            assert mask["polygons"]["type"] == "MultiPolygon"


def test_clean_up_is_done_and_said(endpoint, predictor, image, png):
    cleanup = {"min_component_px": 30}
    body = HTTP.post(
        f"{endpoint}/v1/segment", json={"image": base64.b64encode(png).decode(), "cleanup": cleanup}
    ).json()
    expected = predictor.predict([Query(image, PROMPT, cleanup=CleanupConfig(**cleanup))])[0]
    assert body["cleanup"]["min_component_px"] == 30
    np.testing.assert_array_equal(masks_of(body), expected.masks)
    form = {"file": png}
    as_form = HTTP.post(f"{endpoint}/v1/segment", files=form, data={"cleanup": json.dumps(cleanup)}).json()
    assert as_form["answers"] == body["answers"]


def test_a_batch_is_a_line_for_each_image_and_a_bad_one_fails_alone(endpoint, png):
    alone = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}).json()
    files = [("file", png), ("file", b"no image"), ("file", png)]
    reply = HTTP.post(f"{endpoint}/v1/segment/batch", files=files)
    assert reply.headers["content-type"] == "application/x-ndjson"
    lines = {line["index"]: line for line in map(json.loads, reply.text.splitlines())}
    assert sorted(lines) == [0, 1, 2]
    assert lines[1]["problem"]["title"] == "Not an image"
    assert_same_answers(lines[0]["answers"], alone["answers"])
    assert_same_answers(lines[2]["answers"], alone["answers"])


def test_the_audit_log_has_each_request_and_its_chain_holds(endpoint, png, audit_dir):
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": png})
    (file,) = audit_dir.iterdir()
    records = [json.loads(line) for line in file.read_text().splitlines()]
    (record,) = [each for each in records if each["request_id"] == reply.json()["request_id"]]
    assert record["input_sha256"] == hashlib.sha256(png).hexdigest()
    assert record["output_sha256"] == hashlib.sha256(reply.content).hexdigest()
    assert (record["status"], record["model_sha256"]) == (200, reply.json()["model"]["sha256"])
    command = [sys.executable, "-m", "sa2va_ray.serve.guard.audit", "verify", str(file)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode == 0


def test_a_slow_body_and_one_cut_off_hold_nobody_up(endpoint, png):
    host, port = endpoint.removeprefix("http://").split(":")
    head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 1000\r\n\r\n{"
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(head)
        with socket.create_connection((host, int(port)), timeout=30) as cut:
            cut.sendall(head)
        assert HTTP.post(f"{endpoint}/v1/segment", files={"file": png}).status_code == 200
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_the_page_and_security_headers(endpoint):
    reply = HTTP.get(endpoint)
    assert reply.status_code == 200
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    assert HTTP.get(f"{endpoint}/v1/models").headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in reply.headers


def test_open_inference_and_label_studio(endpoint, predictor, png):
    assert HTTP.get(f"{endpoint}/v2/health/ready").json() == {"ready": True}
    assert HTTP.get(f"{endpoint}/v2/models/tiny").json()["versions"] == [predictor.sha256]
    assert HTTP.get(f"{endpoint}/v2/models/other").status_code == 404
    config = '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image"><Label value="Vessel"/></BrushLabels></View>'  # noqa: E501
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    images = [uri, uri[:-20], uri]
    body = {"tasks": [{"id": i, "data": {"image": each}} for i, each in enumerate(images)], "label_config": config}
    reply = HTTP.post(f"{endpoint}/label_studio/predict", json=body)
    assert reply.status_code == 200, reply.text
    first, broken, last = reply.json()["results"]
    assert first["result"][0]["type"] == "brushlabels"
    assert first["result"][0]["value"] == last["result"][0]["value"]
    assert (broken["result"], broken["problem"]["status"]) == ([], 415)


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
        assert body["answers"][0]["text"] == predictor.predict([Query(one, PROMPT)])[0].text


@pytest.mark.parametrize(
    ("request_arguments", "status", "title"),
    [
        ({"files": {"file": b"this is no image"}}, 415, "Not an image"),
        ({"files": {"file": b""}}, 415, "Not an image"),
        ({"data": {"prompt": "a"}, "files": {"other": b"x"}}, 422, "Wrong field"),
        ({"json": {"prompt": "a"}}, 422, "No image"),
        ({"json": {"image": "no base64!"}}, 422, "Not base64"),
        ({"json": ["a"]}, 422, "Not an object"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "Not JSON"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "Unsupported content type"),
        ({"files": {"file": bytes(8_000_001)}}, 413, "Request too large"),
        ({"json": {"image": "aaaa"}, "headers": {"content-encoding": "gzip"}}, 415, "Compressed body"),
        ({"json": {"uri": "http://127.0.0.1/image.png"}}, 403, None),
        ({"json": {"uri": "s3://other/image.png"}}, 403, None),
        ({"json": {"image": "aaaa", "prompt": ["a"] * 9}}, 415, "Not an image"),
        ({"files": {"file": b"x"}, "data": {"model": "unknown"}}, 404, "Unknown model"),
    ],
)
def test_bad_requests_get_a_problem_document(endpoint, request_arguments, status, title):
    reply = HTTP.post(f"{endpoint}/v1/segment", **request_arguments)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert (body["status"], body["title"]) == (status, title or body["title"])
    assert body["detail"]
    assert body["cure"]


def test_unknown_fields_wrong_values_broken_and_huge_images(endpoint, png):
    huge = io.BytesIO()
    Image.new("L", (8193, 8193)).save(huge, "PNG")
    for files, fields, status, title in (
        ({"file": png}, {"promt": "a"}, 422, "Wrong field"),
        ({"file": png}, {"threshold": "1.5"}, 422, "Wrong field"),
        ({"file": png[: len(png) // 2]}, {}, 415, "Not an image"),
        ({"file": huge.getvalue()}, {}, 413, "Image too large"),
        ({"file": png}, {"model": "unknown"}, 404, "Unknown model"),
        ({"file": png}, {"prompt": ["a"] * 9}, 422, "Too many prompts"),
        ({"file": png}, {"prompt": "a" * 2001}, 422, "Wrong field"),
        ({"file": png}, {"cleanup": "{"}, 422, "Wrong field"),
    ):
        reply = HTTP.post(f"{endpoint}/v1/segment", files=files, data=fields)
        assert (reply.status_code, reply.json()["title"]) == (status, title)


def test_health_and_models(endpoint, predictor):
    assert HTTP.get(f"{endpoint}/livez").status_code == 200
    assert HTTP.get(f"{endpoint}/readyz").status_code == 200
    models = HTTP.get(f"{endpoint}/v1/models").json()["models"]
    assert {each["name"]: each["sha256"] for each in models} == dict.fromkeys(("tiny", "again"), predictor.sha256)
    assert HTTP.get(f"{endpoint}/v1/models/tiny").json()["limits"]["max_upload_bytes"] == 8 * 10**6
    assert HTTP.get(f"{endpoint}/v1/models/other").json()["title"] == "Unknown model"


def test_wide_deep_and_tiny_images(endpoint, png):
    wide = Image.fromarray(np.zeros((2, 20_000), np.uint8))
    deep = Image.fromarray(np.arange(300 * 200, dtype=np.uint16).reshape(200, 300))
    for picture, output_format in ((wide, "PNG"), (deep, "TIFF"), (Image.new("L", (1, 1)), "PNG")):
        buffer = io.BytesIO()
        picture.save(buffer, output_format)
        reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": buffer.getvalue()})
        assert reply.status_code == 200, reply.text
        assert (reply.json()["width"], reply.json()["height"]) == picture.size


def test_the_application_is_on_the_dashboard(stack, endpoint):
    headers = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    status = HTTP.get(f"{stack.dashboard_url}/api/serve/applications/", headers=headers).json()
    assert status["applications"]["sa2va"]["status"] == "RUNNING"
    runs = HTTP.get(f"{stack.dashboard_url}/api/train/v2/runs/v1", headers=headers).json()
    assert "submitted" in {run["name"] for run in runs["train_runs"]}


@pytest.mark.parametrize("deployment", ["Ingress", "model-tiny"])
def test_serve_has_its_work_in_the_event_loop_of_ours(endpoint, deployment):
    for replica in replicas_of(deployment):
        environment = replica.environ()
        assert environment["RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"] == "0"
        assert environment["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] == "0"
    assert replicas_of(deployment)


def test_a_folder_that_is_no_model_is_refused_before_a_replica_starts(tmp_path):
    with pytest.raises(UserError, match="not a complete exported model"):
        build_app(ServeArgs(models={"a": {"uri": str(tmp_path)}}))


def test_neither_an_ingress_nor_the_build_of_the_application_loads_torch():
    code = "import sys, sa2va_ray.serve.app, sa2va_ray.serve.http.ingress; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_a_missing_token_of_label_studio_stops_the_build(monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_TOKEN", raising=False)
    args = ServeArgs(models={"a": {"uri": "/none"}}, label_studio={"url": "http://127.0.0.1:8080"})
    with pytest.raises(UserError, match="no Label Studio token in LABEL_STUDIO_TOKEN"):
        build_app(args)
