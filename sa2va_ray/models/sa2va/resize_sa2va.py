"""PIL's bicubic `resize` on tensors of any device, with the same bits.

PIL resizes one axis after the other. In each pass a value is a sum of stored values, weighted by whole numbers of
2**-22, that is rounded to 8 bits. Integers give the same sum in any order, so the result does not depend on the device.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_PRECISION_BITS = 22
_SUPPORT = 2.0  # of the bicubic kernel, in input pixels
_SHARPNESS = -0.5
_MAX_QUESTIONS = 64  # a few pixels come out alike in either order by chance


def resize(pixels: Tensor, width: int, height: int) -> Tensor:
    """(..., H, W) uint8 -> (..., height, width) uint8, as `Image.resize((width, height))`.

    Raises:
        UnknownOrderError: PIL's own result at these sizes is neither that of resizing rows first nor columns first.
    """
    if _is_width_first(pixels.shape[-1], pixels.shape[-2], width, height, pixels.device):
        return _resampled(_resampled(pixels, -1, width), -2, height)
    return _resampled(_resampled(pixels, -2, height), -1, width)


class UnknownOrderError(RuntimeError):
    """PIL resizes in a way that this module does not know."""


@lru_cache(maxsize=4096)
def _is_width_first(width: int, height: int, new_width: int, new_height: int, device: torch.device) -> bool:
    """Which axis PIL begins with. It chooses by the sizes since its version 13, by a rule that it does not tell, so it
    is asked with noise."""
    if width == new_width or height == new_height:
        return True
    for seed in range(_MAX_QUESTIONS):
        noise = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
        pixels = torch.from_numpy(noise).to(device)
        width_first = _resampled(_resampled(pixels, -1, new_width), -2, new_height)
        height_first = _resampled(_resampled(pixels, -2, new_height), -1, new_width)
        if not torch.equal(width_first, height_first):
            by_pil = torch.from_numpy(np.array(Image.fromarray(noise).resize((new_width, new_height)))).to(device)
            return _is_first_of(by_pil, width_first, height_first)
    return True  # of so few pixels that it makes no difference


def _is_first_of(by_pil: Tensor, width_first: Tensor, height_first: Tensor) -> bool:
    """Whether PIL's result is the first of the two that it may be."""
    if torch.equal(by_pil, width_first) or torch.equal(by_pil, height_first):
        return torch.equal(by_pil, width_first)
    height, width = by_pil.shape
    raise UnknownOrderError(f"PIL resizes to {width} x {height} in a way of its own.")


def _resampled(pixels: Tensor, dim: int, size: int) -> Tensor:
    if pixels.shape[dim] == size:
        return pixels
    places, weights = _taps(pixels.shape[dim], size, pixels.device)
    shape = (-1, *[1] * (-1 - dim))
    total = torch.full((), 1 << (_PRECISION_BITS - 1), dtype=torch.int32, device=pixels.device)
    for place, weight in zip(places, weights, strict=True):
        total = total + pixels.index_select(dim, place) * weight.view(shape)
    return (total >> _PRECISION_BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=256)
def _taps(size: int, new_size: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """For each tap of the kernel: which input each output takes, int64, and with which weight, int32."""
    scale = size / new_size
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    centre = (np.arange(new_size) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), size)
    taps = np.arange(math.ceil(support) * 2 + 1)[:, None]
    weights = np.where(taps < end - first, _bicubic((taps + first - centre + 0.5) * (1.0 / stretch)), 0.0)
    total = np.zeros(new_size)
    for tap in weights:  # in PIL's order, for its rounding
        total += tap
    weights /= total
    whole = (weights * (1 << _PRECISION_BITS) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    places = np.minimum(first + taps, size - 1)
    used = whole.any(axis=1)
    return list(torch.from_numpy(places[used]).to(device)), list(torch.from_numpy(whole[used]).to(device))


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((_SHARPNESS + 2.0) * x - (_SHARPNESS + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _SHARPNESS
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
