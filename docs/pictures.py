"""The pictures of the documentation, from what `make demo` has made: `make pictures`, while the demo runs.

The demo's images are synthetic, so a picture shows no patient. A real browser draws each page, as `sa2va-ray open`
serves it; of a page that is long a part is taken.
"""

import base64
import io
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sa2va_ray import storage
from sa2va_ray.console.connection import Connection
from sa2va_ray.console.viewer import start_server
from sa2va_ray.demo.__main__ import OUTPUT_DIR
from sa2va_ray.demo.connection_file import CONNECTION_NAME, STATE_DIR
from sa2va_ray.demo.run import DATA, EVALUATION, MODEL, RUNS
from sa2va_ray.demo.stack import SCRIPTS_DIR
from tests.serve.browser import Page, chromium, new_page

OUT = Path("docs/en/pictures")
_WIDTH, _MARGIN = 1000, 16  # px
_COLOURS, _REFINED = 128, 2  # rounds: backgrounds keep their colour


@dataclass(frozen=True)
class Picture:
    """Attributes:
    page: URI of the page.
    since, until: CSS selectors of the first element that is shown and of the first one behind it.
    """

    name: str
    page: str
    until: str
    since: str = "h1"


PICTURES = (
    Picture("data_report", f"{DATA}/report.html", until=".gallery figure:nth-of-type(3)"),
    Picture("run_page", f"{RUNS}/demo/run.html", until=".charts > :nth-child(3)"),
    Picture("validation", f"{RUNS}/demo/run.html", until="h2:nth-of-type(3)", since="h2:nth-of-type(2)"),
    Picture("calibration", f"{MODEL}/calibration.html", until="main > p:last-of-type"),
    Picture("evaluation", f"{EVALUATION}/report.html", until="h2:nth-of-type(2)"),
    Picture(
        "worst_image", f"{EVALUATION}/report.html", until=".gallery figure:nth-of-type(2)", since="h2:nth-of-type(4)"
    ),
)


def main() -> None:
    connection = Connection.load([str(STATE_DIR / CONNECTION_NAME)])
    os.environ.update({name: value for name, value, _ in connection.variables()})
    if not storage.exists(f"{MODEL}/calibration.html"):
        _run("calibrate", f"model={MODEL}", f"data_uri={DATA}")
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as devtools, new_page(devtools) as page:
        for picture in PICTURES:
            _write(picture.name, _shoot(page, picture))
    _write("overlay", (OUTPUT_DIR / "overlay.png").read_bytes())


def _run(verb: str, *arguments: str) -> None:
    job = ["job", "submit", "--working-dir", ".", "--", "python", "-m", f"jobs.{verb}", *arguments]
    subprocess.run([SCRIPTS_DIR / "ray", *job], check=True)


def _shoot(page: Page, picture: Picture) -> bytes:
    folder, _, name = picture.page.rpartition("/")
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    page.set_width(_WIDTH, 800)
    with _served(folder) as base_url:
        page.open(f"{base_url}/{name}")
        top, bottom = (
            page.run(f"document.querySelector({selector!r}).getBoundingClientRect().top + scrollY")
            for selector in (picture.since, picture.until)
        )
        top = max(0, top - _MARGIN)
        clip = {"x": 0, "y": top, "width": _WIDTH, "height": bottom - top - _MARGIN / 2, "scale": 1}
        return base64.b64decode(page.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])


@contextmanager
def _served(folder: str) -> Iterator[str]:
    with start_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.base_url
        server.shutdown()


def _write(name: str, png: bytes) -> None:
    """The picture in few colours, so that it is small, but with those that are rare in it."""
    file = OUT / f"{name}.png"
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(
            _COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=_REFINED, dither=Image.Dither.NONE
        )
    few.save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
