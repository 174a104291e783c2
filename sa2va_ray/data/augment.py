"""Augmentation of an image together with its masks: exact moves of pixels, nothing is interpolated."""

import numpy as np
from pydantic import Field

from sa2va_ray.config import Config


class AugmentConfig(Config):
    """Probabilities in [0, 1]; 0 turns a step off."""

    flip_probability: float = Field(0.5, ge=0, le=1)
    """Of a flip, for each of the two axes on its own."""
    turn_probability: float = Field(0.75, ge=0, le=1)
    """Of a turn by 90, 180 or 270 degrees."""


def augment(
    image: np.ndarray, masks: np.ndarray, config: AugmentConfig, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and (N, H, W) bool -> the same, moved together. A turn by 90 degrees swaps H and W."""
    for axis in (0, 1):
        if random.random() < config.flip_probability:
            image, masks = np.flip(image, axis), np.flip(masks, axis + 1)
    if random.random() < config.turn_probability:
        turns = int(random.integers(1, 4))
        image, masks = np.rot90(image, turns, axes=(0, 1)), np.rot90(masks, turns, axes=(1, 2))
    return np.ascontiguousarray(image), np.ascontiguousarray(masks)
