"""Images and answers of any size within the limits, and the memory that they take."""

import base64
import io
import json
import math
import threading
from itertools import product

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from sa2va_ray.config import LARGEST_IMAGE_PX
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.serve.http.encode.output_forms import OUTPUT_FORMS
from tests.serve.processes import replicas_of

HTTP = httpx.Client(timeout=120)
LARGEST_PX = math.isqrt(LARGEST_IMAGE_PX)
LABELS = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="tag" toName="image"><Label value="Blood vessels"/></BrushLabels></View>'
)


def encoded(height: int, width: int, channels: int, bits: int) -> bytes:
    """A PNG with smooth shapes: few bytes for many pixels."""
    rows, columns = np.ogrid[:height, :width]
    waves = (columns // 64 + rows // 64) % 200 + 20
    values = waves.astype(np.uint8 if bits == 8 else np.uint16)
    if bits == 16:
        values *= 257
    if channels == 3:
        values = np.stack([values, values // 2, values // 3], axis=-1)
    written, data = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert written
    return data.tobytes()


def grey(endpoint: str, side: int, bits: int) -> bytes:
    """A grey PNG of which the tests' model says few [SEG]: an answer of many masks about a large picture is refused.
    What it says of a pattern is asked at a tenth of the size first, which is quicker."""
    small = side // 10
    rows, columns = np.ogrid[:small, :small]
    for cell, brightness in product((8, 16, 32, 64, 128, small), (20, 0, 35)):
        values = ((columns // cell + rows // cell) % 200 + brightness).astype(np.uint8)
        values = values.astype(np.uint16) * 257 if bits == 16 else values
        if says_few(endpoint, cv2.imencode(".png", values)[1].tobytes()):
            large = cv2.resize(values, (side, side), interpolation=cv2.INTER_NEAREST)
            data = cv2.imencode(".png", large, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
            if says_few(endpoint, data):
                return data
    pytest.fail("the tests' model says many [SEG] of each of these pictures")


def says_few(endpoint: str, data: bytes) -> bool:
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": data})
    return reply.status_code == 200 and len(reply.json()["answers"][0]["masks"]) <= 4


def memory_mib(deployment: str) -> int:
    """Resident, without what is shared with Ray's object store."""
    (process,) = replicas_of(deployment)
    memory = process.memory_info()
    return (memory.rss - memory.shared) // 2**20


@pytest.mark.parametrize("shape", [(1190, 1190, 3), (2050, 2050, 1)], ids=str)
def test_images_and_answers_above_the_limit_of_a_grpc_message(endpoint, shape):
    """4 MiB is gRPC's own."""
    data = encoded(*shape, bits=8)
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": data}, data={"output": "probability"})
    assert reply.status_code == 200, reply.text
    body = reply.json()
    for mask in body["answers"][0]["masks"]:
        picture = Image.open(io.BytesIO(base64.b64decode(mask["probability"])))
        assert (picture.height, picture.width) == shape[:2] == (body["height"], body["width"])


def test_a_reply_above_the_limit_of_a_grpc_message_comes_whole(endpoint):
    form = {"output": "probability", "prompt": 8 * ["Please segment the vessel."]}
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": encoded(2050, 2050, 1, 8)}, data=form)
    assert reply.status_code == 200, reply.text
    masks = [mask for answer in reply.json()["answers"] for mask in answer["masks"]]
    assert len(reply.json()["answers"]) == 8
    assert not masks or len(reply.content) > 4 * 2**20


def test_a_batch_of_small_large_small_has_a_line_for_each(endpoint, png):
    files = [("file", png), ("file", encoded(1500, 1500, 3, 8)), ("file", png)]
    with HTTP.stream("POST", f"{endpoint}/v1/segment/batch", files=files) as reply:
        lines = sorted((json.loads(line) for line in reply.iter_lines()), key=lambda line: line["index"])
    assert [(line["index"], "answers" in line) for line in lines] == [(0, True), (1, True), (2, True)]


def test_the_largest_image(endpoint):
    data = encoded(LARGEST_PX, LARGEST_PX, 3, 8)
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": data})
    assert reply.status_code == 200, reply.text
    assert all(
        rle_to_mask(mask["rle"]).shape == (LARGEST_PX, LARGEST_PX) for mask in reply.json()["answers"][0]["masks"]
    )


@pytest.mark.soak
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_largest_image_in_every_form(endpoint, channels, bits):
    data = encoded(LARGEST_PX, LARGEST_PX, 3, bits) if channels == 3 else grey(endpoint, LARGEST_PX, bits)
    for output in OUTPUT_FORMS:
        reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": data}, data={"output": output})
        assert reply.status_code == 200, (output, reply.text)
        reply = HTTP.post(
            f"{endpoint}/v1/segment", files={"file": data}, data={"output": output}, headers={"Accept": "image/png"}
        )
        assert reply.status_code == 200, (output, reply.text)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    tasks = {"tasks": [{"id": 1, "data": {"image": uri}}], "label_config": LABELS}
    reply = HTTP.post(f"{endpoint}/label_studio/predict", json=tasks)
    assert reply.status_code == 200, reply.text


@pytest.mark.soak
def test_a_batch_of_largest_images_takes_memory_for_a_few_and_gives_it_back(endpoint):
    """Six of 62 megapixels made the ingress grow to 5.1 GB and keep 4.5."""
    data = grey(endpoint, 7870, 8)
    names = ("Ingress", "model-tiny")
    before = {name: memory_mib(name) for name in names}
    most = dict(before)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for name in names:
                most[name] = max(most[name], memory_mib(name))

    watcher = threading.Thread(target=watch)
    watcher.start()
    files = [("file", data)] * 6
    with HTTP.stream("POST", f"{endpoint}/v1/segment/batch", files=files) as reply:
        lines = [json.loads(line) for line in reply.iter_lines()]
    done.set()
    watcher.join()
    assert sorted(line["index"] for line in lines) == list(range(6))
    assert all("answers" in line for line in lines), lines
    after = {name: memory_mib(name) for name in names}
    print(f"MiB before {before}, most {most}, after {after}")
    assert most["Ingress"] - before["Ingress"] < 1536  # 1 GiB that is given out, and one that is decoded or encoded
    assert after["Ingress"] - before["Ingress"] < 256
