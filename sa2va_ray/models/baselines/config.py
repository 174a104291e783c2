"""Sizes of the U-Net, settings of the vessel filter, and what is kept of a trained nnU-Net beside its weights."""

import re
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sa2va_ray.config import Config, UserError

NUM_LEVELS = 4  # each halves the side and doubles the channels
NUM_GROUPS = 8
# nnU-Net imports whatever its plans name. These are what its planner writes for 2D images.
_NNUNET_CLASS = re.compile(
    r"dynamic_network_architectures\.architectures\.unet\.PlainConvUNet|torch\.nn\.(modules\.\w+\.)?[A-Z]\w+"
)


class UnetConfig(Config):
    """Sizes of the network."""

    image_size: int = Field(512, gt=0, le=8192, multiple_of=2**NUM_LEVELS)
    """Side in pixels of the square that images of any size are resized to."""
    width: int = Field(16, gt=0, le=1024, multiple_of=NUM_GROUPS)
    """Channels of the first level: 16 make 1.9 M parameters, the paper's 64 make 31 M."""


class FilterConfig(Config):
    """Which filter, and for vessels of which widths."""

    method: Literal["frangi", "sato", "top_hat"] = "sato"
    """`frangi` (Frangi et al. 1998) and `sato` (Sato et al. 1998) look for ridges by the image's second derivatives,
    `top_hat` takes what a morphological opening removes, on average over the widths."""
    widths_px: tuple[Annotated[float, Field(ge=0.5, le=128)], ...] = Field((6.0, 8.0), min_length=1, max_length=20)
    """Widths of vessels, 0.5 to 128 pixels of the image as stored. Narrow ones answer to noise as well: on OCT-A images
    of 512 px, whose vessels are 1 to 12 px wide, 2 and 4 beside 8 cost 0.04 of Dice."""


class NnunetModel(Config):
    """All but the weights that is needed to ask a trained nnU-Net."""

    plans: dict[str, Any]
    """nnU-Net's plans: sizes of the network and of its patches, how images are preprocessed."""
    dataset: dict[str, Any]
    """The dataset.json that it was trained on: channels of images, and what values of labels mean."""
    mirroring_axes: tuple[int, ...]
    """Axes of the image, in which it was mirrored in training and is where it is asked."""

    @field_validator("plans")
    @classmethod
    def _imports_nothing_else(cls, plans: dict[str, Any]) -> dict[str, Any]:
        for configuration in plans["configurations"].values():
            architecture = configuration.get("architecture", {})
            imported = [
                architecture.get("arch_kwargs", {}).get(key) for key in architecture.get("_kw_requires_import", ())
            ]
            for name in (architecture.get("network_class_name"), *imported):
                if name is not None and not _NNUNET_CLASS.fullmatch(name):
                    raise ValueError(f"name {name}, which no network of jobs.baseline has")
        return plans


def check_nnunet() -> None:
    """Raises `UserError` where nnU-Net is not installed."""
    if find_spec("nnunetv2") is None:
        raise UserError(
            "nnU-Net is not installed on this machine. Install it on every machine of the cluster: "
            "pip install 'sa2va-ray[nnunet]'."
        )
