"""The page in a browser, as its tests use it, and servers that give it."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from PIL import Image

from sa2va_ray.demo.stack import free_port
from tests.serve.browser import Page

LIMITS = {"max_upload_bytes": 8 * 10**6, "max_image_pixels": 10**6, "max_prompt_characters": 2000, "max_prompts": 8}


@contextmanager
def served(api: FastAPI) -> Iterator[str]:
    port = free_port(preferred=8100)
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the server ended before it was ready"
        assert time.monotonic() < end, "the server was not ready in 30 s"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def check_behaviour(page: Page, url: str) -> None:
    requests = [urlsplit(sent["request"]["url"]) for event, sent in page.events if event == "Network.requestWillBeSent"]
    assert {request.netloc for request in requests if request.scheme != "blob"} == {urlsplit(url).netloc}
    assert [sent for event, sent in page.events if event == "Runtime.exceptionThrown"] == []
    logged = [sent["entry"] for event, sent in page.events if event == "Log.entryAdded"]
    said = [sent for event, sent in page.events if event == "Runtime.consoleAPICalled"]
    # A problem document's status is an entry of its own.
    assert [entry for entry in logged if not urlsplit(entry.get("url", "")).path.startswith("/v1/")] + said == []


def encoded(image: Image.Image, extension: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, extension)
    return buffer.getvalue()


def give(page: Page, data: bytes, media_type: str, how: str = "drop") -> None:
    """Drops or pastes a file, and waits for the page to have taken it."""
    event = {"drop": "new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true})"}
    event["paste"] = "new ClipboardEvent('paste', {clipboardData: dataTransfer, bubbles: true})"
    page.run(f"""{{
        const bytes = Uint8Array.from(atob({base64.b64encode(data).decode()!r}), (c) => c.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], 'Jane Doe.png', {{type: {media_type!r}}}));
        document.body.dispatchEvent({event[how]});
    }}""")
    page.wait_for("!document.getElementById('submit').disabled")


def press_segment(page: Page) -> None:
    page.run("document.getElementById('submit').click()")
    page.wait_for("document.getElementById('cancel').hidden")


def text(page: Page, element: str) -> str:
    return page.run(f"document.getElementById('{element}').innerText")


def is_shown(page: Page, element: str) -> bool:
    return page.run(f"document.getElementById('{element}').checkVisibility()")
