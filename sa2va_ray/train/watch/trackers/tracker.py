"""What a place for curves is asked to do. All places take the same names of metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

TrackerName = Literal["tensorboard", "mlflow"]
"""Those that a config may name. Here and not in the registry, so that a config is read without their libraries."""


@dataclass(frozen=True)
class TrackedRun:
    """The run whose curves they are.

    Attributes:
        start_step: steps that were done before this start of it.
        tags: hashes of what it is made from, by name.
    """

    name: str
    uri: str
    start_step: int
    tags: Mapping[str, str]


class Tracker:
    """A place for curves. Nothing of it waits for a network but `send`, which is called in the background."""

    def __init__(self, run: TrackedRun):
        raise NotImplementedError

    @classmethod
    def check_installed(cls) -> None:
        """Raises `UserError` where a package that it needs is not installed."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def count_skipped(self, num_samples: int) -> None:
        """Samples that a step has left out because a loss was not finite."""

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """RGB images (H, W, 3) uint8 by name."""

    def text(self, step: int, name: str, text: str) -> None:
        pass

    def send(self) -> None:
        """Raises `StorageError` where the other side does not answer; what was not sent goes with the next call."""

    def close(self) -> None:
        pass
