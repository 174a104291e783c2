"""Headless Chromium over its DevTools protocol: as much of it as the page's tests need."""

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run tests as root
    "--remote-debugging-port=0",
    "--disable-background-networking",
    "--disable-gpu",
    "--no-first-run",
    "--force-prefers-reduced-motion",  # drawing a spinner takes the CPU that the model waits for
    # Offline, but for this machine, of which evil.example is another name.
    "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Page:
    """One tab.

    Attributes:
        events: (method, parameters) of what the tab reported so far.
    """

    def __init__(self, socket: ClientConnection):
        self._socket = socket
        self._ids = itertools.count(1)
        self.events: list[tuple[str, dict[str, Any]]] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; reports that come before it are kept in `events`."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=120))
            if "method" in message:
                self.events.append((message["method"], message["params"]))
            elif message["id"] == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression; promises are awaited."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]["exception"].get("description")
        return done["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = 180) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + timeout_s
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, (
                f"not in {timeout_s} s: {condition}. The page: {self.run('document.body.innerText')}"
            )
            time.sleep(0.05)

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    def choose_file(self, selector: str, path: Path) -> None:
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key: str) -> None:
        """A key that is named as in `KeyboardEvent.key`, given to what has the focus."""
        codes = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def set_width(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )


@contextmanager
def chromium(profile_dir: Path) -> Iterator[str]:
    """A browser with an empty profile; yields `host:port` of its DevTools."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "there is no Chromium to show the page: apt-get install chromium"
    command = [program, *_FLAGS, f"--user-data-dir={profile_dir}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{_port(profile_dir / 'DevToolsActivePort', process)}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def new_page(devtools: str) -> Iterator[Page]:
    """A tab that reports its requests, console and errors."""
    request = urllib.request.Request(f"http://{devtools}/json/new?about:blank", method="PUT")
    with urllib.request.urlopen(request, timeout=30) as reply:
        target = json.load(reply)
    with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
        page = Page(socket)
        for domain in ("Page", "DOM", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        yield page
        page.send("Page.close")


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + 60
    while not (file.exists() and file.read_text().count("\n")):
        assert process.poll() is None, f"Chromium ended with {process.returncode} before it was ready"
        assert time.monotonic() < end, "Chromium was not ready in 60 s"
        time.sleep(0.05)
    return int(file.read_text().split()[0])
