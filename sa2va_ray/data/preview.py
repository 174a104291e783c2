"""A contact sheet of augmented samples, to look at before training: do masks lie on vessels, are vessels vessels?"""

from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from sa2va_ray import storage
from sa2va_ray.config import Config
from sa2va_ray.data.augment import AugmentConfig, augment
from sa2va_ray.data.pipeline import SampleIndex
from sa2va_ray.data.sample import decode_image, object_masks
from sa2va_ray.telemetry import configure_logging, log_result

_TILE_PX = 384
_GAP_PX = 4
_COLOURS = ((255, 90, 60), (0, 255, 120), (70, 150, 255), (255, 210, 0), (220, 90, 255), (0, 220, 255))
_OPACITY = 0.4


class PreviewConfig(Config):
    """One contact sheet."""

    data_uri: storage.Uri
    """Prepared data set."""
    out: storage.Uri = Field(pattern=r"\.png$")
    """URI of the PNG. It shows images of patients: keep it where the data may be."""
    split: Literal["train", "val", "test"] = "train"
    """Split that the samples are from."""
    num_samples: int = Field(6, ge=1)
    """Rows of the sheet, a sample each, drawn from the split; a smaller split is shown whole."""
    num_variants: int = Field(5, ge=1)
    """Augmented variants in a row, after the original."""
    seed: int = 0
    """Of the choice of samples and of their variants."""
    augment: AugmentConfig = AugmentConfig()
    """That of the training to come: its `pipeline.augment`."""


def preview(config: PreviewConfig) -> None:
    """Writes the sheet: in each row a sample with the outline of its masks, then variants with their masks tinted.

    Raises:
        UserError: no samples in the split, or storage that does not work.
    """
    storage.check_outside(config.out, {"data_uri": config.data_uri})
    samples = SampleIndex(config.data_uri, config.split)
    random = np.random.default_rng(config.seed)
    indices = random.choice(len(samples), min(config.num_samples, len(samples)), replace=False)
    rows = [list(_tiles(samples[int(index)], int(index), config)) for index in indices]
    _, png = cv2.imencode(".png", cv2.cvtColor(_grid(rows), cv2.COLOR_RGB2BGR))
    storage.write_bytes(config.out, png.tobytes())
    configure_logging()
    given = f"data_uri={config.data_uri}"
    log_result(config.out, "jobs.train", "CONFIG.yaml", given, "runs_uri=RUNS", "name=NAME")


def _tiles(sample: dict, index: int, config: PreviewConfig) -> Iterator[np.ndarray]:
    image, masks = np.asarray(decode_image(sample)), object_masks(sample)
    yield outlined(image, masks)
    for variant in range(config.num_variants):
        yield tinted(*augment(image, masks, config.augment, np.random.default_rng([config.seed, index, variant])))


def outlined(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (N, H, W) bool -> RGB tile with a line just outside of each mask, so that it hides none."""
    canvas, coverages = _to_tile(image, masks)
    for number, coverage in enumerate(coverages):
        inside = (coverage > 0).astype(np.uint8)
        canvas[cv2.dilate(inside, np.ones((3, 3), np.uint8)) > inside] = _COLOURS[number % len(_COLOURS)]
    return canvas


def tinted(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (N, H, W) bool -> RGB tile with the masks as a transparent colour."""
    canvas, coverages = _to_tile(image, masks)
    for number, coverage in enumerate(coverages):
        weight, colour = _OPACITY * coverage[..., None], np.array(_COLOURS[number % len(_COLOURS)])
        canvas = np.rint((1 - weight) * canvas + weight * colour).astype(np.uint8)
    return canvas


def _to_tile(image: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Image and coverage of the masks, in [0, 1], scaled into a square of `_TILE_PX`, black around."""
    height, width = image.shape[:2]
    scale = _TILE_PX / max(height, width)
    inner_height, inner_width = max(round(height * scale), 1), max(round(width * scale), 1)

    def fit(layer: np.ndarray) -> np.ndarray:
        resized = cv2.resize(layer, (inner_width, inner_height), interpolation=cv2.INTER_AREA)
        below, right = _TILE_PX - inner_height, _TILE_PX - inner_width
        return cv2.copyMakeBorder(resized, 0, below, 0, right, cv2.BORDER_CONSTANT)

    return fit(image), [fit(mask.astype(np.float32)) for mask in masks]


def _grid(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Tiles of equal size side by side, row below row, with white gaps."""
    padded = [[np.pad(tile, ((0, _GAP_PX), (0, _GAP_PX), (0, 0)), constant_values=255) for tile in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in padded])
