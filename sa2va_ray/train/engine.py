"""DeepSpeed ZeRO-3 around the model. The process group is the one that Ray Train has made."""

import warnings
from typing import Any, Literal

import deepspeed
import torch
from deepspeed.ops import __compatible_ops__
from torch import nn

from sa2va_ray.train.config import OptimConfig, TrainConfig

_PERSISTENCE_THRESHOLD = 10_000  # parameters smaller than this stay whole on every rank: gathering them costs more


def build_engine(model: nn.Module, config: TrainConfig, precision: str) -> deepspeed.DeepSpeedEngine:
    """Shards weights, gradients and optimizer state of `model` over the workers.

    Args:
        precision: "bf16" or "fp32", from `choose_precision`.
    """
    # DeepSpeed 0.19 calls names that torch 2.13 deprecates, in every step.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # DeepSpeed would compile this op (35 s on a new machine); only inference_all_reduce, which training has no use
    # for, needs it.
    __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if config.use_gpu else "gloo")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, **_adamw_arguments(config.optim))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=_deepspeed_config(config, precision))
    return engine


def choose_precision(config: TrainConfig) -> Literal["bf16", "fp32"]:
    """ "bf16" or "fp32" for `config.precision` on this machine."""
    if config.precision != "auto":
        return config.precision
    fast_on_cpu = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if config.use_gpu or fast_on_cpu else "fp32"


def _adamw_arguments(config: OptimConfig) -> dict[str, Any]:
    return {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}


def _deepspeed_config(config: TrainConfig, precision: str) -> dict[str, Any]:
    return {
        # The step loop decides which micro step is the last (see step.py), so DeepSpeed is not told of accumulation.
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.max_grad_norm,
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": config.use_gpu,
            "contiguous_gradients": True,
            "stage3_param_persistence_threshold": _PERSISTENCE_THRESHOLD,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
