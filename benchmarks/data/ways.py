"""The ways of loading that are compared: the pipeline, and a plain PyTorch DataLoader over loose files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from sa2va_ray.data.augment import AugmentConfig
from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.data.config import PipelineConfig
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import preprocess, stream_steps
from sa2va_ray.models.sa2va.configuration_sa2va import HIERA_LARGE, Sa2VAConfig
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.models.tokenizer import build_tokenizer

SIZES = {"full": (448, 1024), "tiny": (112, 512)}
"""Side of a tile and of SAM 2's image, in pixels."""


def load_stream(uri: str, plan: EpochPlan, config: PipelineConfig, processor: Sa2VAProcessor) -> Iterator[Batch]:
    for step in stream_steps(uri, [plan], config, processor):
        yield from filter(None, step)


def load_loose(folder: Path, plan: EpochPlan, config: PipelineConfig, processor: Sa2VAProcessor) -> Iterator[Batch]:
    loader = DataLoader(
        LooseFiles(folder, plan, config, processor),
        batch_size=plan.micro_batch_size,
        num_workers=config.actors_per_rank,
        collate_fn=collate,
        worker_init_fn=lambda _: cv2.setNumThreads(1),
    )
    return iter(loader)


class LooseFiles(Dataset):
    """The places of an epoch, read from a folder of images and label files."""

    def __init__(self, folder: Path, plan: EpochPlan, config: PipelineConfig, processor: Sa2VAProcessor):
        self._images = sorted(folder.glob("*.png"))
        self._samples = plan.samples(np.arange(plan.samples_per_epoch))
        self._config, self._processor = config, processor

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> dict[str, Any]:
        image = self._images[self._samples[position]]
        objects = json.loads(image.with_suffix(".json").read_text())
        sample = {"sample_id": image.stem, "image": image.read_bytes(), "objects": objects, "ignored": None}
        return preprocess(sample, self._config, self._processor, np.random.default_rng([0, 0, position]))


def build_plan(num_rows: int, repeats: int) -> EpochPlan:
    """One rank that takes samples one by one."""
    return EpochPlan(num_rows, repeats, 0, 0, global_batch_size=8, micro_batch_size=1, rank=0, world_size=1)


def pipeline_config(workers: int, augmented: bool) -> PipelineConfig:
    return PipelineConfig(actors_per_rank=workers, augment=AugmentConfig() if augmented else AugmentConfig.off())


def build_processor(size: str) -> Sa2VAProcessor:
    tile_size, grounding_size = SIZES[size]
    config = Sa2VAConfig(
        vision_config={"image_size": tile_size},
        max_dynamic_patch=12 if size == "full" else 1,
        grounding_config={**HIERA_LARGE, "image_size": grounding_size},
    )
    return Sa2VAProcessor(config, build_tokenizer())
