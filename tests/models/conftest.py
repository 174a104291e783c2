"""The numbers that upstream's own code made, at tiny sizes (tests/fixtures/README.md tells what each array is)."""

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sa2va_ray.models.config import ModelConfig
from sa2va_ray.models.loading.load import LoadedModel, load_model
from sa2va_ray.train.config import TrainConfig
from tests.fixtures.unpack import unpack

_TURN = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>\n<\|im_start\|>assistant\n(.*?)<\|im_end\|>\n", re.DOTALL)
_IMAGE = re.compile(r"<img>(<IMG_CONTEXT>)+</img>")


@dataclass(frozen=True)
class Sample:
    """One training sample: (question, answer) turns, the first question with `<image>` in it."""

    turns: list[tuple[str, str]]
    num_image_tokens: int


class ParitySet:
    """One set of weights with what upstream computes from them. Nothing here knows a size."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.grounding_config = json.loads((folder / "sam2_tiny.json").read_text())
        self.loaded: LoadedModel = load_model(folder, grounding_config=self.grounding_config)
        self.meta = json.loads((folder / "meta.json").read_text())
        self.train_meta = json.loads((folder / "train_meta.json").read_text())
        self._arrays = {**np.load(folder / "arrays.npz"), **np.load(folder / "train_arrays.npz")}

    @cached_property
    def image(self) -> Image.Image:
        return Image.open(self.folder / "image.png").convert("RGB")

    @property
    def prompt(self) -> str:
        return self.meta["image"]["text"]

    @property
    def answer(self) -> str:
        return self.meta["image"]["answer"].removesuffix("<|im_end|>")

    @property
    def num_segs(self) -> int:
        return len(self.array("seg_embeds"))

    def array(self, name: str) -> np.ndarray:
        """By its README name; one set keeps those of the still image under a prefix."""
        return self._arrays[name if name in self._arrays else f"img_{name}"]

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._arrays if name.startswith(prefix)]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.array(name))

    def tensors(self, prefix: str) -> list[Tensor]:
        """Arrays that are stored one per sample, as `prefix0`, `prefix1`, ..."""
        names = sorted(self.names(prefix), key=lambda name: int(name.removeprefix(prefix)))
        return [self.tensor(name) for name in names]

    def samples(self, key: str) -> list[Sample]:
        """Training samples of `train_meta`, taken apart again."""
        return [
            Sample(
                [(_IMAGE.sub("<image>", question), answer) for question, answer in _TURN.findall(sample["text"])],
                sample["text"].count("<IMG_CONTEXT>"),
            )
            for sample in self.train_meta[key]
        ]

    def train_image(self, index: int) -> Image.Image:
        annotations = json.loads((self.folder / "train_data/annotations.json").read_text())
        return Image.open(self.folder / "train_data/images" / annotations[index]["image"]).convert("RGB")


@pytest.fixture(scope="session")
def fixtures_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upstream's files as its code wrote them: those of tests/fixtures, or of the folder that SA2VA_FIXTURES names."""
    if named := os.environ.get("SA2VA_FIXTURES"):
        return Path(named)
    folder = tmp_path_factory.mktemp("upstream") / "fixtures"
    unpack(folder)
    return folder


@pytest.fixture(scope="session")
def parity(fixtures_dir: Path) -> ParitySet:
    """The set named by SA2VA_PARITY_SET, `parity_a` by default."""
    return ParitySet(fixtures_dir / os.environ.get("SA2VA_PARITY_SET", "parity_a"))


@pytest.fixture(scope="session")
def xtuner_dir(fixtures_dir: Path) -> Path:
    return fixtures_dir / "parity_xtuner"


@pytest.fixture(scope="session")
def xtuner_grounding_config(xtuner_dir: Path) -> dict[str, Any]:
    return json.loads((xtuner_dir / "sam2_tiny.json").read_text())


@pytest.fixture(scope="session")
def demo_architecture() -> ModelConfig:
    """The demo's model, its SAM 2 at a quarter of the size."""
    demo = Path(__file__).parents[2] / "jobs/configs/demo.yaml"
    return TrainConfig.load([str(demo), "model.architecture.grounding_config.image_size=128"]).model
