"""DeepSpeed around the model. The process group is the one that Ray Train has made."""

import warnings
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import set_z3_leaf_module, z3_leaf_module

from sa2va_ray.models.parts import ENCODERS, LANGUAGE_MODEL, part_of
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.train.config import OptimConfig, TrainConfig
from sa2va_ray.train.engine.layers import compile_layers, cut_large_batches, layers, recompute_activations, trains
from sa2va_ray.train.engine.strategy import UNSHARDED, zero_config


def build_engine(model: Sa2VAModel, config: TrainConfig, precision: str) -> deepspeed.DeepSpeedEngine:
    """Spreads weights, gradients and optimizer state of `model` over the workers, as `config.strategy` says.

    All ranks get the weights of rank 0, whatever theirs hold.

    Args:
        model: on the CPU, with `requires_grad` as `make_trainable` sets it.
        config: with a `strategy` that is not "auto" any more (see `plan.memory.choose_strategy`).
        precision: "bf16" or "fp32", from `choose_precision`; the dtype of all parameters.
    """
    # DeepSpeed 0.19 calls names that torch 2.13 deprecates, in every step.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # DeepSpeed would compile this op (35 s on a new machine); only inference_all_reduce, which training has no use
    # for, needs it.
    __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if config.use_gpu else "gloo")
    if config.compile_layers:
        compile_layers(model, config.strategy, config.samples_of_a_pass)
    else:
        cut_large_batches(model, config.samples_of_a_pass)
    if config.activation_checkpointing:
        recompute_activations(model)
    settings = _deepspeed_config(config, precision)
    if config.strategy != "zero2":
        _gather_in_large_pieces(model)
        if config.strategy == "zero3":
            _leave_whole(model)
        _shard(model, settings)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, **_adamw_arguments(config.optim))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if config.strategy != "zero2":
        _gather_leaves_when_they_run(engine)
    _send_stored_buffers(model)  # DeepSpeed sends parameters alone
    return engine


def _gather_in_large_pieces(model: Sa2VAModel) -> None:
    """ZeRO-3 gathers the weights of a leaf in one go. Left to itself it does so for each of 2,000 modules, and its
    Python for that takes longer than a GPU takes for the step; and its hooks in an encoder would break a compiled
    graph at each. Encoders that train stay as they are: DeepSpeed 0.19 loses weights of their layers as leaves."""
    for part in ENCODERS.values():
        encoder = model.get_submodule(part.module)
        set_z3_leaf_module(encoder, not trains(encoder))
    for layer in layers(model, LANGUAGE_MODEL):
        set_z3_leaf_module(layer, True)


def _gather_leaves_when_they_run(engine: deepspeed.DeepSpeedEngine) -> None:
    """After each step DeepSpeed gathers what stays whole on every rank: a collective for each of 1,200 small
    parameters, while the GPU waits. Those of a leaf are gathered when it next runs, with all else that it has."""
    leaves = (module for module in engine.module.modules() if z3_leaf_module(module))
    gathered = {id(parameter) for leaf in leaves for parameter in leaf.parameters()}
    optimizer: Any = engine.optimizer
    optimizer.persistent_parameters = [each for each in optimizer.persistent_parameters if id(each) not in gathered]


def _leave_whole(model: Sa2VAModel) -> None:
    """Keeps frozen parts of `UNSHARDED` from ZeRO-3, which shards parameters: they become buffers. They are 0.5 G of
    8 G values, and more than half of the 2,000 tensors: what DeepSpeed does in Python for each, in every pass and step,
    takes longer than a GPU should wait."""
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    trained = {parts[name] for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name in (name for name, part in parts.items() if part in UNSHARDED and part not in trained):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        values = getattr(module, leaf).detach()
        delattr(module, leaf)
        module.register_buffer(leaf, values)


def _shard(model: Sa2VAModel, settings: dict[str, Any]) -> None:
    """Spreads the weights over the GPUs one parameter at a time. `deepspeed.initialize` by itself would put the whole
    model on each GPU first."""
    deepspeed.zero.Init(module=model, config_dict_or_path=settings, dtype=model.dtype)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(get_accelerator().current_device_name())


def _send_stored_buffers(model: Sa2VAModel) -> None:
    stored = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in stored:
            torch.distributed.broadcast(buffer, src=0)


def _adamw_arguments(config: OptimConfig) -> dict[str, Any]:
    # Fused: 20 M parameters take 18 ms of two CPU cores, and 266 otherwise; offloaded ones are stepped on a CPU, too.
    return {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay, "fused": True}


def _deepspeed_config(config: TrainConfig, precision: str) -> dict[str, Any]:
    assert config.strategy != "auto", "the driver chooses one of the others"
    return {
        # The step loop decides which micro step is the last (see step.py), so DeepSpeed is not told of accumulation.
        "train_micro_batch_size_per_gpu": config.samples_of_a_pass,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.max_grad_norm,
        # DeepSpeed would ask each gradient whether it is finite, in six kernels, though their norm tells that, too.
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": False},
        "zero_optimization": zero_config(config.strategy, bool(config.use_gpu), config.compile_layers),
        # torch's AdamW, on the CPU too: DeepSpeed's own is compiled on first use, which needs a CUDA toolkit.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
