"""The page in front of servers that refuse, are slow, or cut their replies."""

import asyncio
import re
import time

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from sa2va_ray.serve.http.routes.page import router as page_router
from tests.serve.browser import new_page
from tests.serve.page import LIMITS, check_behaviour, encoded, give, is_shown, served, text

MODEL = dict(name="a", sha256="0" * 64, threshold=0.5, cleanup={}, default_prompt="Find it.", limits=LIMITS)


def problem(status: int, title: str, detail: str, cure: str) -> Response:
    body = dict(type="about:blank", title=title, status=status, detail=detail, cure=cure, request_id="7f3a")
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def locked_endpoint() -> FastAPI:
    """Wants the key `right`, and then never answers."""
    api = FastAPI()
    api.include_router(page_router)

    @api.get("/v1/models")
    def models(request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer right":
            return problem(401, "No valid API key", "The request has no valid key.", "Ask for one.")
        return JSONResponse({"models": [MODEL]})

    @api.post("/v1/segment")
    async def segment(request: Request) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.05)

    return api


def test_a_key_is_asked_for_and_a_request_can_be_cancelled(devtools, image):
    with served(locked_endpoint()) as url, new_page(devtools) as page:
        page.open(url)
        page.wait_for("document.getElementById('problem').checkVisibility()")
        assert text(page, "problem-title") == "This page needs an access key"
        assert "Ask the person who gave you this address" in text(page, "problem-cure")
        shown = page.run("document.body.innerText")
        assert not re.search(r"401|API key\.|7f3a|No valid", shown)
        assert text(page, "served") == "Waiting for your access key."
        assert page.run("document.activeElement.id") == "key"
        page.run("{ key.value = 'wrong'; key.dispatchEvent(new Event('change')); }")
        page.wait_for("document.getElementById('problem-title').innerText.includes('not known here')")
        page.run("{ key.value = 'right'; key.dispatchEvent(new Event('change')); }")
        page.wait_for("document.getElementById('prompt').value")
        assert not is_shown(page, "problem")
        assert page.run("[JSON.stringify(localStorage), document.cookie]") == ["{}", ""]

        give(page, encoded(image, "PNG"), "image/png")
        page.run("submit.click()")
        page.wait_for("document.getElementById('cancel').checkVisibility()")
        page.run("cancel.click()")
        page.wait_for("document.getElementById('status').innerText === 'Cancelled.'")
        assert not is_shown(page, "problem")
        check_behaviour(page, url)


class SlowEndpoint:
    """Tells of its models when `has_models` is set, and never answers.

    Attributes:
        num_requests: for masks, that came.
        images: of these.
    """

    def __init__(self) -> None:
        self.has_models = False
        self.num_requests = 0
        self.images: list[bytes] = []
        self.api = FastAPI()
        self.api.include_router(page_router)
        self.api.get("/v1/models")(self._models)
        self.api.post("/v1/segment")(self._segment)

    async def _models(self) -> Response:
        while not self.has_models:
            await asyncio.sleep(0.02)
        return JSONResponse({"models": [MODEL]})

    async def _segment(self, request: Request) -> None:
        self.num_requests += 1
        self.images.append(await (await request.form())["file"].read())
        while not await request.is_disconnected():
            await asyncio.sleep(0.05)

    def wait_for_images(self, images: list[bytes]) -> None:
        end = time.monotonic() + 30
        while len(self.images) < len(images):
            assert time.monotonic() < end, "no request came in 30 s"
            time.sleep(0.02)
        assert self.images == images


def test_pressing_enter_twice_while_the_models_load_sends_one_request(devtools, image):
    endpoint = SlowEndpoint()
    with served(endpoint.api) as url, new_page(devtools) as page:
        page.open(url)
        give(page, encoded(image, "PNG"), "image/png")
        page.run("document.getElementById('prompt').focus()")
        page.press("Enter")
        page.press("Enter")
        endpoint.has_models = True
        page.wait_for("performance.getEntriesByType('resource').filter((it) => it.name.endsWith('models')).length > 1")
        end = time.monotonic() + 30
        while not endpoint.num_requests:
            assert time.monotonic() < end, "no request came in 30 s"
            time.sleep(0.02)
        page.run("new Promise((done) => setTimeout(done, 300))")
        assert endpoint.num_requests == 1
        assert is_shown(page, "cancel")
        page.run("cancel.click()")
        assert text(page, "status") == "Cancelled."
        assert page.run("submit.disabled") is False


def test_an_image_is_not_sent_before_it_is_drawn(devtools, image):
    """The page would say that nothing is sent, while it is."""
    endpoint = SlowEndpoint()
    endpoint.has_models = True
    with served(endpoint.api) as url, new_page(devtools) as page:
        page.open(url)
        give(page, encoded(image, "PNG"), "image/png")
        page.run("""{
            const decode = HTMLImageElement.prototype.decode;
            const gate = new Promise((open) => { window.openGate = open; });
            HTMLImageElement.prototype.decode = async function () { await gate; return decode.call(this); };
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["x"], "a.png", {type: "image/png"}));
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
            document.getElementById("prompt").focus();
        }""")
        page.press("Enter")
        assert not is_shown(page, "cancel")
        page.run("{ openGate(); }")
        page.wait_for("!document.getElementById('submit').disabled")
        assert endpoint.num_requests == 0
        page.run("submit.click()")
        page.run("new Promise((done) => setTimeout(done, 1200))")  # the seconds of the wait are counted
        assert text(page, "status").startswith("The model is working …")
        page.run("cancel.click()")
        check_behaviour(page, url)


def cut_endpoint() -> FastAPI:
    """Announces a reply of 1000 bytes, sends a part of it, and ends; for the prompt "wait" it goes on waiting."""
    api = FastAPI()
    api.include_router(page_router)

    @api.get("/v1/models")
    def models() -> Response:
        return JSONResponse({"models": [MODEL]})

    @api.post("/v1/segment")
    async def segment(request: Request) -> Response:
        waits = (await request.form())["prompt"] == "wait"

        async def part():
            yield b'{"answers": ['
            while waits and not await request.is_disconnected():
                await asyncio.sleep(0.05)

        return StreamingResponse(part(), headers={"Content-Length": "1000"}, media_type="application/json")

    return api


def test_a_reply_that_is_cut_is_told_as_a_connection_that_was(devtools, image):
    with served(cut_endpoint()) as url, new_page(devtools) as page:
        page.open(url)
        page.wait_for("document.getElementById('prompt').value")
        give(page, encoded(image, "PNG"), "image/png")
        page.run("submit.click()")
        page.wait_for("document.getElementById('problem').checkVisibility()")
        assert text(page, "problem-title") == "The server cannot be reached"
        assert "was cut while" in text(page, "problem-detail")
        stopped = page.run("""import('/api.js').then(async ({ segment }) => {
            const abort = new AbortController();
            setTimeout(() => abort.abort(), 300);
            return segment(new Blob(['x']), 'wait', '', abort.signal).catch((error) => error.name);
        })""")
        assert stopped == "AbortError"


def test_what_is_drawn_is_what_is_sent_though_the_file_is_written_anew(devtools, image, tmp_path):
    """The browser sent nothing then, and the page said for ever that the model works. Nor did it take notice when the
    same file was chosen again."""
    endpoint, path = SlowEndpoint(), tmp_path / "image.png"
    endpoint.has_models = True
    first, second = (encoded(each, "PNG") for each in (image, image.rotate(90)))
    path.write_bytes(first)
    with served(endpoint.api) as url, new_page(devtools) as page:
        page.open(url)
        page.choose_file("#file", path)
        page.wait_for("!document.getElementById('submit').disabled", 30)
        path.write_bytes(second)
        page.run("submit.click()")
        endpoint.wait_for_images([first])
        page.choose_file("#file", path)
        page.wait_for("!document.getElementById('cancel').checkVisibility() && !submit.disabled", 30)
        page.run("submit.click()")
        endpoint.wait_for_images([first, second])
        page.run("cancel.click()")
        path.unlink()
        page.run("""{
            const dataTransfer = new DataTransfer();
            const folder = new File(["x"], "folder");
            folder.arrayBuffer = () => Promise.reject(new DOMException("", "NotReadableError"));
            Object.defineProperty(dataTransfer, "files", { value: [folder] });
            const event = new DragEvent("drop", { bubbles: true, cancelable: true });
            Object.defineProperty(event, "dataTransfer", { value: dataTransfer });
            document.body.dispatchEvent(event);
        }""")
        page.wait_for("document.getElementById('problem').checkVisibility()", 30)
        assert text(page, "problem-title") == "The file cannot be read"
        assert page.run("submit.disabled") is True
