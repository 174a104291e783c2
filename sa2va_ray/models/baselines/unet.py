"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597), with padded convolutions and group norm.

Shapes: B images, C channels, S side of the square image.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sa2va_ray.models.baselines.config import NUM_GROUPS, NUM_LEVELS, UnetConfig


class Unet(nn.Module):
    """Logits of one mask."""

    def __init__(self, config: UnetConfig):
        super().__init__()
        widths = [config.width * 2**level for level in range(NUM_LEVELS + 1)]
        self.down = nn.ModuleList(_two_convolutions(before, after) for before, after in pairwise([3, *widths]))
        upwards = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, stride=2) for wide, narrow in upwards)
        self.merge = nn.ModuleList(_two_convolutions(wide, narrow) for wide, narrow in upwards)
        self.head = nn.Conv2d(config.width, 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 RGB -> (B, S, S) float32.

        1. every level down sees the image at half the size of the one before;
        2. every level up joins what comes from below with what went down at its size.
        """
        x = pixels.float() / 127.5 - 1
        # 1. down
        skipped = []
        for level, convolve in enumerate(self.down):
            x = convolve(F.max_pool2d(x, 2) if level else x)
            skipped.append(x)
        # 2. up
        for enlarge, convolve, skip in zip(self.up, self.merge, reversed(skipped[:-1]), strict=True):
            x = convolve(torch.cat([skip, enlarge(x)], dim=1))
        return self.head(x).squeeze(1)


def to_square(image: Image.Image, side: int) -> Tensor:
    """RGB image of any size -> (3, side, side) uint8; the aspect ratio is not kept."""
    return torch.from_numpy(np.array(image.resize((side, side)))).permute(2, 0, 1)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) in [0, 1] -> (B, *size) in [0, 1]. Antialiased, so that a thin vessel in a map that is shrunk becomes
    partly true pixels and does not vanish."""
    return F.interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.GroupNorm(NUM_GROUPS, after), nn.ReLU()]
    return nn.Sequential(*layers)
