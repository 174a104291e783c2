"""What numbers a run computes with."""

from typing import Literal

import torch

from sa2va_ray.train.config import TrainConfig


def choose_precision(config: TrainConfig) -> Literal["bf16", "fp32"]:
    """ "bf16" or "fp32" for `config.precision` on this machine."""
    if config.precision != "auto":
        return config.precision
    fast_on_cpu = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if config.use_gpu or fast_on_cpu else "fp32"
