"""The client against a real HTTP server, which answers as the test tells it to."""

import asyncio
import hashlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image

from sa2va_ray.client import AsyncClient, Client, NoReplyError, ProblemError, Result
from sa2va_ray.client import folders as client_folders
from sa2va_ray.client.errors import ForeignReplyError
from sa2va_ray.client.retries import back_off_s
from sa2va_ray.images.masks import mask_to_rle

SHA256 = "ab" * 32
MASK = np.zeros((5, 7), bool)
MASK[1:3, 2:6] = True
OTHER_MASK = np.eye(5, 7, dtype=bool)


@dataclass
class Endpoint:
    """What it got, and what it is to answer first; then it answers with masks."""

    url: str = ""
    sha256: str = SHA256
    answers: list[Response] = field(default_factory=list)
    models_answer: Response | None = None
    refused: dict[bytes, Response] = field(default_factory=dict)
    delay_s: float = 0
    forms: list[list[tuple[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def segment(self, request: Request) -> Response:
        form = (await request.form()).multi_items()
        (file,) = [value for name, value in form if name == "file"]
        assert file.filename == "image", "what a file is called stays with the caller"
        image = await file.read()
        self.forms.append([(name, value) for name, value in form if name != "file"])
        self.headers.append(dict(request.headers))
        await asyncio.sleep(self.delay_s)
        if self.answers:
            return self.answers.pop(0)
        if image in self.refused:
            return self.refused[image]
        if request.headers["accept"] == "image/png":
            return Response(png(MASK), media_type="image/png")
        prompts = [value for name, value in form if name == "prompt"] or ["?"]
        return as_json(200, reply(prompts, self.sha256))

    def models(self) -> Any:
        return self.models_answer or {
            "models": [{"name": "tiny", "sha256": self.sha256}, {"name": "other", "sha256": "cd" * 32}]
        }


def as_json(status: int, body: Any, media_type: str = "application/json", **headers: str) -> Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(json.dumps(body), status, names, media_type=media_type)


def problem(status: int, title: str, **headers: str) -> Response:
    document = {"type": "about:blank", "title": title, "status": status, "detail": "What was wrong."}
    rest = {"cure": "What to do.", "request_id": "r1"}
    return as_json(status, document | rest, "application/problem+json", **headers)


def reply(prompts: list[str], sha256: str) -> dict[str, Any]:
    masks = [{"area_fraction": float(each.mean()), "rle": mask_to_rle(each)} for each in (MASK, OTHER_MASK)]
    facts = {"text": "[SEG]", "score": 0.5, "area_fraction": 0.2, "mean_confidence": 0.9}
    return {
        "request_id": "r0",
        "model": {"name": "tiny", "sha256": sha256},
        "height": 5,
        "width": 7,
        "threshold": 0.4,
        "cleanup": {},
        "answers": [{"prompt": each, **facts, "masks": masks if each != "nothing" else []} for each in prompts],
        "timing_ms": {"read": 1.0},
    }


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint, app = Endpoint(), FastAPI()
    app.post("/v1/segment")(endpoint.segment)
    app.get("/v1/models")(endpoint.models)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield endpoint
        server.should_exit = True
        thread.join()


Segment = Callable[..., Result]


@pytest.fixture(params=["sync", "async"])
def segment(request: pytest.FixtureRequest, endpoint: Endpoint) -> Segment:
    """`segment` of a client, by either of the two."""

    def by_sync(*args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Result:
        with Client(endpoint.url, **(options or {})) as client:
            return client.segment(*args, **kwargs)

    def by_async(*args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Result:
        async def ask() -> Result:
            async with AsyncClient(endpoint.url, **(options or {})) as client:
                return await client.segment(*args, **kwargs)

        return asyncio.run(ask())

    return by_sync if request.param == "sync" else by_async


def test_result_is_typed_and_its_masks_are_decoded(segment: Segment):
    result = segment(b"image", ["vessels", "nothing"])
    assert (result.request_id, result.model_name, result.model_sha256) == ("r0", "tiny", SHA256)
    assert (result.threshold, result.height, result.width, result.timing_ms) == (0.4, 5, 7, {"read": 1.0})
    assert [answer["prompt"] for answer in result.answers] == ["vessels", "nothing"]
    np.testing.assert_array_equal(result.mask(), MASK | OTHER_MASK)
    assert result.mask(1).shape == (5, 7)
    assert not result.mask(1).any()
    np.testing.assert_array_equal(result.union(), MASK | OTHER_MASK)


def test_options_and_key_are_sent_and_what_is_left_out_is_not(segment: Segment, endpoint: Endpoint):
    segment(b"image")
    segment(b"image", "a", options={"api_key": "secret"}, threshold=0.0, cleanup={"close_px": 1}, model="tiny")
    segment(b"image", ["a", "b"], output="polygons")
    assert endpoint.forms[0] == []
    assert sorted(endpoint.forms[1]) == [
        ("cleanup", '{"close_px": 1}'),
        ("model", "tiny"),
        ("prompt", "a"),
        ("threshold", "0.0"),
    ]
    assert sorted(endpoint.forms[2]) == [("output", "polygons"), ("prompt", "a"), ("prompt", "b")]
    assert "authorization" not in endpoint.headers[0]
    assert endpoint.headers[1]["authorization"] == "Bearer secret"


def test_masks_in_another_form_are_not_decoded(segment: Segment, endpoint: Endpoint):
    other = reply(["a"], SHA256)
    other["answers"][0]["masks"] = [{"area_fraction": 0.1, "polygons": {}}]
    endpoint.answers = [as_json(200, other)]
    with pytest.raises(ValueError, match="output='rle'"):
        segment(b"image", output="polygons").mask()


def test_image_may_be_a_path_or_pixels(endpoint: Endpoint, tmp_path: Path):
    file = tmp_path / "patient.png"
    file.write_bytes(b"what is in it")
    endpoint.refused = {b"what is in it": problem(415, "the file"), png(MASK): problem(415, "the pixels")}
    with Client(endpoint.url) as client:
        with pytest.raises(ProblemError, match="the file"):
            client.segment(file)
        with pytest.raises(ProblemError, match="the pixels"):
            client.segment(Image.fromarray(MASK))


def test_an_image_may_be_given_as_files_usually_are(endpoint: Endpoint, tmp_path: Path):
    data = png(MASK)
    path = tmp_path / "images/image.png"
    path.parent.mkdir()
    path.write_bytes(data)
    with Client(endpoint.url) as client:
        expected = client.segment(data).answers
        for image in (str(path), path, bytearray(data), memoryview(data), io.BytesIO(data), path.open("rb")):
            assert client.segment(image).answers == expected
        with path.open(encoding="latin-1") as text, pytest.raises(TypeError, match="mode 'rb'"):
            client.segment(text)
        with pytest.raises(TypeError, match="not a dict"):
            client.segment({})
        assert client.segment_folder(str(path.parent), str(tmp_path / "out"), progress=False).done == 1


def test_busy_endpoint_is_asked_again_when_it_says(segment: Segment, endpoint: Endpoint):
    endpoint.answers = [problem(503, "Too busy", Retry_After="1"), problem(429, "Too many", Retry_After="1")]
    start_s = time.monotonic()
    assert segment(b"image").request_id == "r0"
    assert time.monotonic() - start_s >= 2
    assert len(endpoint.forms) == 3


def test_without_retry_after_it_backs_off(segment: Segment, endpoint: Endpoint):
    endpoint.answers = [problem(503, "Too busy"), Response("no document", 503)]
    start_s = time.monotonic()
    segment(b"image")
    assert time.monotonic() - start_s >= 0.75  # (0.5 + 1) s, each times 0.5 at least
    assert len(endpoint.forms) == 3


def test_last_try_tells_the_problem(segment: Segment, endpoint: Endpoint):
    endpoint.answers = [problem(503, "Too busy", Retry_After="0") for _ in range(3)]
    with pytest.raises(ProblemError, match="Too busy"):
        segment(b"image", options={"max_tries": 2})
    assert len(endpoint.forms) == 2


def test_a_wait_of_an_hour_is_the_callers_to_decide(segment: Segment, endpoint: Endpoint):
    endpoint.answers = [problem(429, "Too many", Retry_After="3600")]
    with pytest.raises(ProblemError, match="Too many"):
        segment(b"image")


def test_other_problems_are_raised_at_once(segment: Segment, endpoint: Endpoint):
    endpoint.answers = [problem(422, "Wrong field", Retry_After="1")]
    with pytest.raises(ProblemError) as caught:
        segment(b"image")
    error = caught.value
    assert (error.status, error.title, error.request_id) == (422, "Wrong field", "r1")
    assert (error.detail, error.cure) == ("What was wrong.", "What to do.")
    assert str(error) == "422 Wrong field: What was wrong. What to do. (request r1)"
    assert len(endpoint.forms) == 1


@pytest.mark.parametrize(("status", "title"), [(500, "Internal Server Error"), (413, "Request Entity Too Large")])
def test_reply_of_a_proxy_is_a_problem_too(segment: Segment, endpoint: Endpoint, status: int, title: str):
    endpoint.answers = [Response("<html>" + "x" * 1000, status)]
    with pytest.raises(ProblemError) as caught:
        segment(b"image")
    assert (caught.value.status, caught.value.title) == (status, title)
    assert len(caught.value.detail) == 200


@pytest.mark.parametrize(
    ("body", "media_type"),
    [("<html>", "Text/HTML"), ("<html>", "application/xhtml+xml"), ("OK", "text/plain"), ("", None)]
    + [(body, "application/json") for body in ('{"error": "denied"}', "[]", '{"models": nul', "[" * 100_000)],
)
def test_a_success_that_is_none_of_the_endpoints_is_told_as_that(
    segment: Segment, endpoint: Endpoint, body: str, media_type: str | None
):
    """As of a proxy that asks to log in, by whatever media type: it was a traceback."""
    endpoint.answers = [Response(body, media_type=media_type)]
    with pytest.raises(ForeignReplyError, match="200 OK"):
        segment(b"image")
    endpoint.answers, endpoint.models_answer = [Response(body, media_type=media_type)], Response(body)
    with Client(endpoint.url) as client:
        with pytest.raises(ForeignReplyError, match="200 OK"):
            client.segment_png(b"image")
        with pytest.raises(ForeignReplyError, match="200 OK"):
            client.models()


def test_a_time_to_wait_that_is_no_number_is_not_one(segment: Segment, endpoint: Endpoint):
    endpoint.answers = [Response("busy", 503, {"Retry-After": "\u00b2"})]
    assert segment(b"image").request_id == "r0"


@pytest.mark.parametrize("body", ['{"status": 500, "title": "Upstream"}', "[]", "<html>", "[" * 100_000])
def test_a_problem_document_of_a_gateway_is_that_of_a_proxy(segment: Segment, endpoint: Endpoint, body: str):
    endpoint.answers = [Response(body, 500, media_type="application/problem+json")]
    with pytest.raises(ForeignReplyError, match="500 Internal Server Error"):
        segment(b"image")


def test_a_proxy_before_an_endpoint_that_is_away_is_asked_again(segment: Segment, endpoint: Endpoint):
    endpoint.answers = [Response("<html>", status, {"Retry-After": "0"}) for status in (502, 504)]
    assert segment(b"image").request_id == "r0"
    assert len(endpoint.forms) == 3
    endpoint.answers = [Response("<html>", 502, {"Retry-After": "0"}) for _ in range(2)]
    with pytest.raises(ProblemError, match="502 Bad Gateway"):
        segment(b"image", options={"max_tries": 2})


def test_a_proxys_own_problem_document_is_a_problem_too(segment: Segment, endpoint: Endpoint):
    """It has other members than the endpoint's, which made a `KeyError` of it."""
    endpoint.answers = [as_json(502, {"title": "Bad Gateway"}, "application/problem+json", Retry_After="0")]
    assert segment(b"image").request_id == "r0"
    endpoint.answers = [as_json(413, {"title": "Too large"}, "application/problem+json")]
    with pytest.raises(ForeignReplyError, match="413 "):
        segment(b"image")


@pytest.mark.parametrize(("number", "longest_s"), [(1, 0.5), (2, 1), (5, 8), (7, 30), (1000, 30)])
def test_each_try_waits_twice_as_long_as_the_last_and_half_a_minute_at_most(number: int, longest_s: float):
    assert longest_s / 2 <= back_off_s(number) <= longest_s


def test_an_image_that_the_endpoint_has_no_time_for_is_not_sent_again(segment: Segment, endpoint: Endpoint):
    endpoint.answers = [problem(504, "Out of time", Retry_After="0")]
    with pytest.raises(ProblemError, match="Out of time"):
        segment(b"image")
    assert len(endpoint.forms) == 1


def test_slow_endpoint(segment: Segment, endpoint: Endpoint):
    endpoint.delay_s = 4
    with pytest.raises(NoReplyError, match=r"silent for 1 s.*timeout_s"):
        segment(b"image", options={"timeout_s": 1})
    assert len(endpoint.forms) == 1, "a slow endpoint is not given more work"


def test_refused_connection_is_tried_again(segment: Segment, endpoint: Endpoint):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint.url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        start_s = time.monotonic()
        with pytest.raises(NoReplyError, match=r"in 2 tries \(ConnectError\)"):
            segment(b"image", options={"max_tries": 2})
    assert time.monotonic() - start_s >= 0.25


def test_connection_that_breaks_before_the_reply_is_tried_again(endpoint: Endpoint):
    """The first connection is closed when the request has come; the second is served."""
    body = json.dumps(reply(["?"], SHA256)).encode()
    replies = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body]

    def serve(listener: socket.socket) -> None:
        for each in replies:
            connection, _ = listener.accept()
            with connection:
                received = b""
                while b"--\r\n" not in received:  # the end of the form
                    received += connection.recv(65536)
                connection.sendall(each)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            assert client.segment(b"image").request_id == "r0"
        thread.join()


def test_png_and_models(endpoint: Endpoint):
    with Client(endpoint.url) as client:
        assert client.segment_png(b"image", output="probability") == png(MASK)
        assert [model["name"] for model in client.models()] == ["tiny", "other"]
    assert endpoint.headers[0]["accept"] == "image/png"


def test_client_works_within_a_running_loop(endpoint: Endpoint):
    async def as_in_a_notebook() -> str:
        with Client(endpoint.url) as client:
            return client.segment(b"image").request_id

    assert asyncio.run(as_in_a_notebook()) == "r0"


def test_client_that_is_dropped_ends_its_thread(endpoint: Endpoint):
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "sa2va-client"]

    before = threads()
    Client(endpoint.url).segment(b"image")
    for thread in set(threads()) - set(before):
        thread.join(5)
    assert threads() == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("Mustermann/a.png", "Mustermann/b.JPG", "c.tif", "copy_of_c.tif", ".hidden.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.removeprefix("copy_of_").encode())
    return folder


def id_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def lines_of(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def test_what_would_do_nothing_is_refused(endpoint: Endpoint, folder: Path, tmp_path: Path):
    with Client(endpoint.url) as client:
        for wrong in (tmp_path / "nope", folder / "a.png"):
            with pytest.raises(NotADirectoryError):
                client.segment_folder(wrong, tmp_path / "out")
        for number in (0, 10**9):
            with pytest.raises(ValueError, match=f"concurrency is {number}; 1 is the least, 1000 the most"):
                client.segment_folder(folder, tmp_path / "out", concurrency=number)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "value"),
    [("max_tries", 0), ("max_tries", 10**9), ("timeout_s", 0), ("timeout_s", float("nan")), ("timeout_s", 1e9)],
)
def test_numbers_without_a_sense_are_refused(kind: type, name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        kind("http://127.0.0.1:1", **{name: value})


@pytest.mark.parametrize("key", ["secret-key\n", " secret-key", "secret-k\u00e9y"])
def test_a_key_that_no_header_can_hold_is_refused_without_telling_it(key: str):
    with pytest.raises(ValueError, match=f"of {len(key)} characters") as refused:
        Client("http://127.0.0.1:1", key)
    assert "secret" not in str(refused.value)


def test_folder(endpoint: Endpoint, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    endpoint.refused = {b"Mustermann/b.JPG": problem(415, "Not an image")}
    out = tmp_path / "out"
    with Client(endpoint.url) as client:
        counts = client.segment_folder(folder, out, "a", concurrency=2)
    assert (counts.done, counts.skipped, counts.bad) == (2, 1, 1), "two files have the same content"
    lines, bad = lines_of(out), id_of(b"Mustermann/b.JPG")
    assert set(lines) == {id_of(b"Mustermann/a.png"), id_of(b"c.tif"), bad}
    assert lines[bad]["problem"]["title"] == "Not an image"
    good = id_of(b"c.tif")
    assert lines[good]["result"]["model_sha256"] == SHA256
    assert {file.name for file in (out / "masks").iterdir()} == {f"{id}.png" for id in lines if id != bad}
    np.testing.assert_array_equal(Image.open(out / f"masks/{good}.png"), (MASK | OTHER_MASK) * np.uint8(255))
    shown = "".join(capfd.readouterr())
    assert "4/4" in shown
    assert "Mustermann" not in shown + (out / "results.jsonl").read_text()


@pytest.mark.parametrize("out", ["images", "images/out", "link/out", "images/../images", "masks_above"])
def test_masks_within_the_folder_of_the_images_are_refused(endpoint: Endpoint, folder: Path, tmp_path: Path, out: str):
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    target = tmp_path / out
    if out == "masks_above":  # whose `masks` are the images
        target.mkdir()
        folder.rename(target / "masks")
        folder = target / "masks"
    before = sorted(tmp_path.rglob("*"))
    with Client(endpoint.url) as client, pytest.raises(ValueError, match="lies within `folder`"):
        client.segment_folder(folder, target, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("is_empty", [False, True])
def test_folder_is_resumed(endpoint: Endpoint, folder: Path, tmp_path: Path, is_empty: bool):
    out, bad = tmp_path / "out", b"Mustermann/b.JPG"
    endpoint.refused = {bad: problem(422, "Broken image")}
    with Client(endpoint.url) as client:
        client.segment_folder(folder, out, "a", progress=False)
        with (out / "results.jsonl").open("ab") as file:
            file.write(b'\0\0\n\xff\n[]\n{"result": {}}\n{"id": "cut o')  # as power cuts and killed processes leave it
        lost = out / f"masks/{id_of(b'c.tif')}.png"
        lost.write_bytes(b"") if is_empty else lost.unlink()
        endpoint.refused, endpoint.forms = {}, []
        counts = client.segment_folder(folder, out, "a", progress=False)
        assert (counts.done, counts.bad, len(endpoint.forms)) == (2, 0, 2), "the bad one, and the one without its mask"
        assert lost.stat().st_size
        assert all("result" in line for line in lines_of(out).values())
        counts = client.segment_folder(folder, out, "a", progress=False)
        assert (counts.done, counts.skipped) == (0, 4)
        assert client.segment_folder(folder, out, "a", progress=False, threshold=0.3).done == 3
        endpoint.sha256 = "ef" * 32
        assert client.segment_folder(folder, out, "a", progress=False, threshold=0.3).done == 3
    assert {line["result"]["model_sha256"] for line in lines_of(out).values()} == {"ef" * 32}


def test_several_calls_may_write_to_one_folder(endpoint: Endpoint, folder: Path, tmp_path: Path):
    """They wrote a mask under one name until it was whole, and the later one did not find its own any more."""
    with Client(endpoint.url) as client:
        result = client.segment(b"image")
    asked = {"prompt": None}
    several = [client_folders._Results(tmp_path / "out", asked) for _ in range(4)]
    with ThreadPoolExecutor(len(several)) as pool:
        list(pool.map(lambda results: [results.write_mask("id", result) for _ in range(100)], several))
    assert [file.name for file in (tmp_path / "out/masks").iterdir()] == ["id.png"]


def test_folder_stops_where_the_endpoint_refuses_the_caller(endpoint: Endpoint, folder: Path, tmp_path: Path):
    endpoint.answers = [problem(401, "No valid API key")]
    with Client(endpoint.url) as client, pytest.raises(ProblemError, match="No valid API key"):
        client.segment_folder(folder, tmp_path / "out", concurrency=1, progress=False)
    assert len(endpoint.forms) == 1


@pytest.mark.parametrize("status", [200, 302, 500, 502, 503, 504])
def test_folder_stops_where_a_proxy_has_no_endpoint(endpoint: Endpoint, folder: Path, tmp_path: Path, status: int):
    out = tmp_path / "out"
    endpoint.answers = [as_json(200, reply(["?"], SHA256))]
    endpoint.answers += [Response("<html>", status, {"Retry-After": "0"}, media_type="text/html") for _ in range(2)]
    with Client(endpoint.url, max_tries=2) as client, pytest.raises(ProblemError, match=f"^{status} "):
        client.segment_folder(folder, out, concurrency=1, progress=False)
    assert [line.get("problem") for line in lines_of(out).values()] == [None], "no image is to blame"


def test_folder_goes_on_after_a_problem_of_an_image_whose_content_type_has_a_charset(
    endpoint: Endpoint, folder: Path, tmp_path: Path
):
    refusal = problem(422, "No image")
    refusal.headers["content-type"] = "application/problem+json; charset=utf-8"  # as a proxy may write it
    endpoint.refused = {b"Mustermann/b.JPG": refusal}
    with Client(endpoint.url) as client:
        counts = client.segment_folder(folder, tmp_path / "out", concurrency=1, progress=False)
    assert (counts.done, counts.bad) == (2, 1)


def test_folder_goes_on_after_an_image_that_a_proxy_finds_too_large(endpoint: Endpoint, folder: Path, tmp_path: Path):
    endpoint.refused = {b"Mustermann/b.JPG": Response("<html>", 413)}
    with Client(endpoint.url) as client:
        counts = client.segment_folder(folder, tmp_path / "out", concurrency=1, progress=False)
    assert (counts.done, counts.bad) == (2, 1)


def test_import_brings_nothing_heavy():
    heavy = "{'torch', 'ray', 'numpy', 'PIL', 'pycocotools', 'pydantic', 'tqdm'}"
    code = f"import sys, sa2va_ray.client; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
