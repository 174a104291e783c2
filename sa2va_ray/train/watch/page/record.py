"""What a run's folder tells of it: `run.json`, its curves, the newest validation's pictures, and the page of it all."""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.pictures.sheet import Picture
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.watch.history import HISTORY_FILE, RunHistory
from sa2va_ray.train.watch.page.run_page import PAGE_FILE, render_run_page
from sa2va_ray.train.watch.page.state import RunState
from sa2va_ray.train.watch.run_facts import write_run_facts

_PICTURES = "validation"
_SUFFIX = ".webp"


class RunRecord:
    """The record as it is in memory. One thread changes it, another may `write` it meanwhile.

    Attributes:
        facts: content of `run.json`; its `state` is set by `set_state`.
        pictures: of the newest validation.
    """

    def __init__(self, run_uri: str, facts: dict[str, Any], history: RunHistory, pictures: Sequence[Picture]):
        self.run_uri, self.facts, self.history = run_uri, facts, history
        self.pictures = self._written_pictures = pictures

    def set_state(self, state: RunState, step: int | None = None, message: str = "") -> None:
        """
        Args:
            step: steps done; as before where it is not given.
            message: for people: with what the run ended.
        """
        before = self.facts.get("state", {})
        self.facts["state"] = {
            "name": state,
            "step": before.get("step", 0) if step is None else step,
            "message": message,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def write(self) -> None:
        """Writes everything; the page last, since it shows the rest."""
        write_run_facts(self.run_uri, self.facts)
        storage.write_bytes(storage.join(self.run_uri, HISTORY_FILE), self.history.to_bytes())
        pictures = self.pictures
        if pictures is not self._written_pictures:
            _write_pictures(self.run_uri, pictures)
            self._written_pictures = pictures
        self.write_page()

    def write_page(self) -> None:
        page = render_run_page(self.facts, self.history.rows, self.pictures)
        storage.write_bytes(storage.join(self.run_uri, PAGE_FILE), page)


def to_pictures(pixels: Mapping[str, np.ndarray]) -> list[Picture]:
    """The pictures of a validation, by pseudonym, RGB uint8, as they are shown."""
    return [Picture(sample_id, each) for sample_id, each in pixels.items()]


def read_pictures(run_uri: str) -> list[Picture]:
    """Those that lie in a run's folder, but for damaged ones."""
    folder = storage.join(run_uri, _PICTURES)
    found = []
    for name in sorted(storage.list_files(folder)):
        if name.endswith(_SUFFIX):
            try:
                pixels = _decode(storage.read_bytes(storage.join(folder, name)))
            except OSError:  # another job may just write it
                LOGGER.warning("the page of the run leaves a picture of its validation out, which cannot be read")
            else:
                found.append(Picture(name.removesuffix(_SUFFIX), pixels))
    return found


def _write_pictures(run_uri: str, pictures: Sequence[Picture]) -> None:
    folder = storage.join(run_uri, _PICTURES)
    names = {f"{picture.caption}{_SUFFIX}": picture for picture in pictures}
    for name, picture in names.items():
        storage.write_bytes(storage.join(folder, name), picture.webp)
    storage.delete_files(folder, storage.list_files(folder).keys() - names.keys())


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
