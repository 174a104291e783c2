"""A contact sheet of augmented samples, to look at before training: do masks lie on vessels, are vessels vessels?"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Literal

import numpy as np
from pydantic import Field

from sa2va_ray import storage
from sa2va_ray.config import Config, Seed
from sa2va_ray.data.augment import AugmentConfig, augment
from sa2va_ray.data.sample import decode_image, ignored_mask, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.images.decode import to_png
from sa2va_ray.pictures.overlay import fit, hatched, outlined, tinted
from sa2va_ray.pictures.palette import OBJECTS
from sa2va_ray.pictures.sheet import Picture, contact_sheet
from sa2va_ray.telemetry import configure_logging, log_result

_TILE_PX = 384
_OPACITY = 0.5


class PreviewConfig(Config):
    """One contact sheet."""

    data_uri: storage.Uri
    """Prepared data set."""
    out: storage.KeptUri = Field(pattern=r"\.png$")
    """URI of the PNG. It shows images of patients: keep it where the data may be."""
    split: Literal["train", "val", "test"] = "train"
    """Split that the samples are from."""
    num_samples: int = Field(6, ge=1, le=32)
    """Rows of the sheet, a sample each, drawn from the split; a smaller split is shown whole."""
    num_variants: int = Field(5, ge=1, le=16)
    """Augmented variants in a row, after the original."""
    seed: Seed = 0
    """Decides which samples are drawn, and their variants."""
    augment: AugmentConfig = AugmentConfig()
    """What the training to come does: its `pipeline.augment`."""


def preview(config: PreviewConfig) -> None:
    """Writes the sheet: in each row a sample with the outline of its masks, then variants with their masks tinted. What
    does not count is hatched.

    Raises:
        UserError: no samples in the split, or storage that does not work.
    """
    storage.check_outside(config.out, {"data_uri": config.data_uri})
    samples = SampleIndex(config.data_uri, config.split)
    random = np.random.default_rng(config.seed)
    indices = random.choice(len(samples), min(config.num_samples, len(samples)), replace=False)
    tiles = [tile for index in indices for tile in _tiles(samples[int(index)], int(index), config)]
    storage.write_bytes(config.out, to_png(contact_sheet(tiles, columns=1 + config.num_variants)))
    configure_logging()
    given = f"data_uri={config.data_uri}"
    log_result(config.out, "jobs.train", "CONFIG.yaml", given, "runs_uri=RUNS", "name=NAME")


def _tiles(sample: dict, index: int, config: PreviewConfig) -> Iterator[Picture]:
    image, masks, ignored = np.asarray(decode_image(sample)), object_masks(sample), ignored_mask(sample)
    every = masks if ignored is None else np.concatenate([masks, ignored[None]])
    yield Picture(f"sample {index} of the split, as it is", outlined_tile(image, masks, ignored))
    for variant in range(config.num_variants):
        random = np.random.default_rng([config.seed, index, variant])
        varied, moved = augment(image, every, config.augment, random)
        moved_ignored = None if ignored is None else moved[-1]
        yield Picture(f"sample {index}, variant {variant + 1}", tinted_tile(varied, moved[: len(masks)], moved_ignored))


def outlined_tile(image: np.ndarray, masks: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) uint8, (N, H, W) bool and (H, W) bool of what does not count -> RGB tile with a line around each mask,
    a colour for each."""
    return _tile(image, masks, ignored, outlined)


def tinted_tile(image: np.ndarray, masks: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """As `outlined_tile`, with the masks tinted."""
    return _tile(image, masks, ignored, partial(tinted, opacity=_OPACITY))


def _tile(
    image: np.ndarray, masks: np.ndarray, ignored: np.ndarray | None, draw: Callable[..., np.ndarray]
) -> np.ndarray:
    """Scaled into a square of `_TILE_PX`, black around."""
    shown = fit(image, _TILE_PX)
    for mask, colour in zip(masks, cycle(OBJECTS), strict=False):
        shown = draw(shown, fit(mask.astype(np.float32), _TILE_PX), colour)
    if ignored is not None:
        shown = hatched(shown, fit(ignored.astype(np.float32), _TILE_PX) > 0.5)
    tile = np.zeros((_TILE_PX, _TILE_PX, 3), np.uint8)
    tile[: shown.shape[0], : shown.shape[1]] = shown
    return tile
