"""Sizes of the U-Net, and settings of the vessel filter."""

from typing import Literal

from pydantic import Field

from sa2va_ray.config import Config

NUM_LEVELS = 4  # each halves the side and doubles the channels
NUM_GROUPS = 8


class UnetConfig(Config):
    """Sizes of the network."""

    image_size: int = Field(512, gt=0, multiple_of=2**NUM_LEVELS)
    """Side in pixels of the square that images of any size are resized to."""
    width: int = Field(16, gt=0, multiple_of=NUM_GROUPS)
    """Channels of the first level: 16 make 1.9 M parameters, the paper's 64 make 31 M."""


class FilterConfig(Config):
    """Which filter, and for vessels of which widths."""

    method: Literal["frangi", "sato", "top_hat"] = "sato"
    """`frangi` (Frangi et al. 1998) and `sato` (Sato et al. 1998) look for ridges by the image's second derivatives,
    `top_hat` takes what a morphological opening removes, on average over the widths."""
    widths_px: tuple[float, ...] = Field((6.0, 8.0), min_length=1)
    """Widths of vessels, in pixels of the image as stored. Narrow ones answer to noise as well: on OCT-A images of
    512 px, whose vessels are 1 to 12 px wide, 2 and 4 beside 8 cost 0.04 of Dice."""
