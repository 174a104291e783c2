"""The page in a real browser, in front of a real model."""

import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from PIL import Image

from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.pictures.palette import MASK
from sa2va_ray.predict.cleanup import CleanupConfig, clean_mask
from sa2va_ray.predict.predictor import Query
from sa2va_ray.serve.http.routes.page import router as page_router
from tests.serve.browser import Page, new_page
from tests.serve.page import LIMITS, check_behaviour, encoded, give, is_shown, press_segment, served, text

PROMPT = "Please segment blood vessels in this image."
STEP = 1 / 65535  # of the probabilities in a 16-bit PNG


@pytest.fixture(scope="module")
def page_url(endpoint) -> str:
    """The page of the real endpoint."""
    return endpoint


@pytest.fixture
def page(devtools, page_url) -> Iterator[Page]:
    """The page, opened. Whatever is done with it: nothing is logged as an error, and no other host is asked."""
    with new_page(devtools) as page:
        page.open(page_url)
        page.wait_for("document.getElementById('prompt').value")
        yield page
        check_behaviour(page, page_url)


def move_threshold(page: Page, threshold: float) -> None:
    page.run(f"""{{
        const slider = document.getElementById('threshold');
        slider.value = {threshold};
        slider.dispatchEvent(new Event('input', {{bubbles: true}}));
    }}""")
    page.wait_for(f"document.getElementById('threshold-number').value === '{threshold}'")


def download(page: Page, button: str, folder: Path) -> bytes:
    page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.run(f"document.getElementById('{button}').click()")
    suffix = {"save-png": "png", "save-rle": "json"}[button]
    end = time.monotonic() + 30
    while not (files := list(folder.glob(f"mask-*.{suffix}"))):
        assert time.monotonic() < end, "nothing was downloaded in 30 s"
        time.sleep(0.05)
    return files[0].read_bytes()


def assert_masks_agree(found: np.ndarray, probabilities: np.ndarray, threshold: float) -> None:
    """Up to the pixels whose rounded probability may be on the other side of the threshold."""
    certain = abs(probabilities - threshold) > STEP
    np.testing.assert_array_equal(found[certain], (probabilities > threshold)[certain])


def test_from_a_dropped_image_to_the_predictors_mask_at_any_threshold(page, predictor, image, tmp_path):
    give(page, encoded(image, "PNG"), "image/png")
    press_segment(page)
    expected = predictor.predict([Query(image, PROMPT)])[0]
    assert len(expected.masks), "the model must find something for this test to mean anything"
    assert text(page, "area") == f"{100 * expected.union().mean():.2f} %"
    drawn = page.run("[...new Uint32Array(overlay.getContext('2d').getImageData(0, 0, 80, 60).data.buffer)]")
    words = np.array(drawn, np.uint32).view(np.uint8).reshape(60, 80, 4)
    np.testing.assert_array_equal(words[..., 3] == 255, expected.union())
    assert np.abs(words[expected.union()][:, :3].astype(int) - MASK).max() <= 2  # some browsers add noise

    largest = expected.probabilities.max(axis=0)
    threshold = round(float(np.median(largest)), 2)
    move_threshold(page, threshold)
    uncertain = (abs(largest - threshold) <= STEP).mean()
    area = float(text(page, "area").rstrip(" %")) / 100
    assert area == pytest.approx((largest > threshold).mean(), abs=uncertain + 1e-4)

    saved = json.loads(download(page, "save-rle", tmp_path))
    assert (saved["height"], saved["width"], saved["threshold"]) == (60, 80, threshold)
    assert saved["model"] == {"name": predictor.name, "sha256": predictor.sha256}
    masks = np.array([rle_to_mask(annotation["segmentation"]) for annotation in saved["annotations"]])
    assert_masks_agree(masks, expected.probabilities, threshold)
    assert [annotation["area"] for annotation in saved["annotations"]] == masks.sum(axis=(1, 2)).tolist()

    png = Image.open(io.BytesIO(download(page, "save-png", tmp_path)))
    np.testing.assert_array_equal(np.asarray(png) / 255, masks.any(axis=0))
    assert png.text == {
        "Model-SHA256": predictor.sha256,
        "Threshold": str(threshold),
        "Request-ID": saved["request_id"],
    }


def test_the_facts_of_the_reply_are_shown(page, predictor, image):
    give(page, encoded(image, "JPEG"), "image/jpeg", how="paste")
    press_segment(page)
    assert text(page, "fact-model") == predictor.name
    assert predictor.sha256.startswith(text(page, "fact-sha").rstrip("…"))
    assert re.search(r"(?s)queue [\d.]+ .*predict [\d.]+ ", text(page, "fact-timing"))
    assert len(text(page, "fact-request")) == 32
    page.run("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
    page.run("document.querySelector('[data-copy=sha]').click()")
    page.wait_for(f"window.copied === '{predictor.sha256}'")


def test_the_keyboard_is_enough(page, image, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(image, "PNG"))
    page.choose_file("#file", path)
    page.wait_for("document.activeElement.id === 'submit'")
    page.press("Enter")
    page.wait_for("document.getElementById('controls').checkVisibility()")
    before = page.run("document.getElementById('threshold').valueAsNumber")
    for _ in range(30):
        page.press("Tab")
        if page.run("document.activeElement.id") == "threshold":
            break
    page.press("ArrowRight")
    page.wait_for(f"document.getElementById('threshold').valueAsNumber > {before}")
    page.press("Tab")
    page.press("Tab")
    page.press("ArrowLeft")
    page.wait_for("document.getElementById('opacity-value').value === '55 %'")
    assert page.run("document.getElementById('overlay').style.opacity") == "0.55"


def test_a_reply_that_is_being_decoded_is_not_shown_over_another_image(page, image):
    page.run("""{
        const decoded = Response.prototype.arrayBuffer;
        window.gate = new Promise((open) => { window.openGate = open; });
        Response.prototype.arrayBuffer = async function () {
            window.isDecoding = true;
            await window.gate;
            return decoded.call(this);
        };
    }""")
    give(page, encoded(image, "PNG"), "image/png")
    page.run("submit.click()")
    page.wait_for("window.isDecoding")
    give(page, encoded(image.resize((40, 30)), "PNG"), "image/png")
    page.wait_for("chosen.innerText.startsWith('40 ')")
    assert not is_shown(page, "cancel")
    page.run("{ openGate(); }")
    page.run("new Promise((done) => setTimeout(done, 500))")
    assert [is_shown(page, element) for element in ("facts", "controls", "toolbar", "problem")] == [False] * 4
    assert page.run("overlay.width") == 0
    press_segment(page)
    assert page.run("[overlay.width, overlay.height]") == [40, 30]


def test_what_the_browser_cannot_draw_is_shown_as_mask_on_grey(page, image):
    give(page, encoded(image, "TIFF"), "image/tiff")
    press_segment(page)
    assert "cannot draw" in text(page, "note")
    assert not is_shown(page, "image")
    assert page.run("[overlay.width, overlay.height]") == [80, 60]


def test_problem_documents_are_shown(page, image):
    give(page, b"this is no image", "image/png")
    press_segment(page)
    assert text(page, "problem-title") == "Not an image"
    assert "do not begin as" in text(page, "problem-detail")
    assert text(page, "problem-cure").startswith("Send one image as BMP, GIF, JPEG, PNG")
    assert is_shown(page, "problem")
    assert not is_shown(page, "facts")
    give(page, encoded(image, "PNG"), "image/png")
    assert not is_shown(page, "problem")
    give(page, bytes(LIMITS["max_upload_bytes"] + 1), "image/png")
    press_segment(page)
    assert text(page, "problem-detail") == "The file has 8,000,001 bytes, the limit is 8,000,000."


@pytest.mark.parametrize("view", ["overlay", "side", "mask"])
def test_a_phones_width_needs_no_scrolling_sideways(page, image, view):
    page.set_width(390, 844)
    give(page, encoded(image, "PNG"), "image/png")
    press_segment(page)
    page.run(f"document.querySelector('[value={view}]').click()")
    assert page.run("document.documentElement.scrollWidth") == 390
    page.run("{ zoom.value = '8'; zoom.dispatchEvent(new Event('change')); }")
    assert page.run("document.documentElement.scrollWidth") == 390
    assert page.run("mask.style.imageRendering") == "pixelated"


def evil_site(url: str) -> FastAPI:
    """A site with a form and a link that go to the endpoint."""
    site = FastAPI()
    html = f"""<form method="post" enctype="multipart/form-data" action="{url}/v1/segment"><input name="file"></form>
        <a href="{url}/">the endpoint</a>"""

    @site.get("/", response_class=HTMLResponse)
    def page() -> str:
        return html

    return site


def statuses(page: Page, url: str) -> list[int]:
    """Statuses of the replies that came from there so far; forgets them."""
    page.run("0")  # reports that have come by now are read
    replies = [sent["response"] for event, sent in page.events if event == "Network.responseReceived"]
    page.events.clear()
    ours = [reply for reply in replies if reply["url"].startswith(url) and not reply["url"].endswith("/favicon.ico")]
    return [reply["status"] for reply in ours]


def test_another_site_can_lead_here_and_do_nothing_else(devtools, page_url):
    """Not by its scripts and forms, nor under its own name (DNS rebinding), although they ask from this machine."""
    port = urlsplit(page_url).port
    with served(evil_site(page_url)) as url, new_page(devtools) as page:
        site = url.replace("127.0.0.1", "evil.example")
        page.open(site)
        for path, options in (
            ("v1/models", "{}"),
            ("v1/segment", "{method: 'POST', body: new FormData()}"),
            ("", "{}"),
        ):
            page.run(f"fetch('{page_url}/{path}', {{mode: 'no-cors', ...{options}}}).then(() => 0)")
            assert statuses(page, page_url) == [403], path
        page.run("document.querySelector('form').submit()")
        page.wait_for("document.body?.innerText.includes('Not allowed')")
        assert statuses(page, page_url) == [403]
        page.send("Page.navigate", url=f"http://evil.example:{port}/")
        page.wait_for("document.body?.innerText.includes('Not allowed')")
        assert statuses(page, "http://evil.example") == [403]
        page.open(site)
        page.run("document.querySelector('a').click()")
        page.wait_for("document.getElementById('prompt')?.value")


def in_page(masks: np.ndarray) -> str:
    return f"Uint8Array.from({masks.astype(int).ravel().tolist()})"


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (64, 3), (40, 50)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_are_those_of_coco(page, shape, share):
    mask = np.random.default_rng(1).random(shape) < share
    rle = page.run(f"import('/masks.js').then((m) => m.toRle({in_page(mask)}, {shape[1]}, {shape[0]}))")
    np.testing.assert_array_equal(rle_to_mask(rle), mask)


@pytest.mark.parametrize(
    "cleanup",
    [
        CleanupConfig(close_px=1),
        CleanupConfig(close_px=3),
        CleanupConfig(open_px=1),
        CleanupConfig(open_px=2),
        CleanupConfig(min_component_px=7),
        CleanupConfig(max_hole_px=5),
        CleanupConfig(close_px=1, open_px=1, min_component_px=12, max_hole_px=30),
    ],
    ids=str,
)
def test_clean_up_is_that_of_the_predictor(page, cleanup):
    random = np.random.default_rng(2)
    for share in (0.1, 0.3, 0.6):
        mask = cv2.dilate((random.random((37, 53)) < share).astype(np.uint8), np.ones((1, 2), np.uint8)) > 0
        cleaned = page.run(
            f"import('/masks.js').then((m) => [...m.clean({in_page(mask)}, 53, 37, {cleanup.model_dump_json()})])"
        )
        np.testing.assert_array_equal(np.reshape(cleaned, (37, 53)) > 0, clean_mask(mask, cleanup))


@pytest.mark.parametrize("writer", ["pillow", "opencv"])
def test_all_16_bits_of_a_png_are_read(page, writer):
    x, y = np.meshgrid(np.arange(61), np.arange(43))
    values = (65535 * np.abs(np.sin(x * y / 300)) + np.random.default_rng(0).integers(0, 2, x.shape)).clip(0, 65535)
    values = values.astype(np.uint16)
    png = encoded(Image.fromarray(values), "PNG") if writer == "pillow" else cv2.imencode(".png", values)[1].tobytes()
    read = page.run(
        f"import('/png.js').then((m) => m.decodePng16(new Uint8Array({list(png)}))).then((it) => [...it.values])"
    )
    np.testing.assert_array_equal(np.reshape(read, values.shape), values)


def test_every_file_of_the_page_is_served_with_security_headers_and_kept_by_its_tag(page_url):
    paths = {route.path for route in page_router.routes}
    assert {"/", "/page.css", "/page.js", "/palette.css"} <= paths
    for path in paths:
        reply = httpx.get(page_url + path)
        assert reply.status_code == 200
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert "default-src 'self'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["referrer-policy"] == "no-referrer"
        again = httpx.get(page_url + path, headers={"If-None-Match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
