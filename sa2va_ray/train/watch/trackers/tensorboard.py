"""Curves as event files of TensorBoard, in the run's folder."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from sa2va_ray import storage
from sa2va_ray.train.watch.trackers.tracker import TrackedRun, Tracker


class TensorBoard(Tracker):
    """Event files in `RUN/tensorboard`. A run that goes on adds a file, which replaces what an earlier one has from
    `start_step` on."""

    def __init__(self, run: TrackedRun):
        self._uri = storage.join(run.uri, "tensorboard")
        self._folder = Path(tempfile.mkdtemp(prefix="tensorboard-"))
        self._writer = SummaryWriter(str(self._folder), purge_step=run.start_step + 1 if run.start_step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def text(self, step: int, name: str, text: str) -> None:
        self._writer.add_text(name, text, step)

    def send(self) -> None:
        self._writer.flush()
        newest = max(path.name for path in self._folder.iterdir())
        storage.upload_folder(self._folder, self._uri, last=newest)

    def close(self) -> None:
        self._writer.close()
        shutil.rmtree(self._folder)
