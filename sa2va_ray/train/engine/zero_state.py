"""Trained tensors and AdamW's state of a ZeRO engine, whole and by name, so that they do not depend on the number of
workers that share them."""

from collections.abc import Callable, Iterator

import deepspeed.utils
import torch
import torch.distributed as dist
from torch import Tensor, nn

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")


def trained_parameters(engine) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that train, in the model's order, which is the same on all ranks."""
    return [(name, each) for name, each in engine.module.named_parameters() if each.requires_grad]


def gather_owned(engine) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields the parameters that this rank is to save: name, and its `weight`, `exp_avg` and `exp_avg_sq` in float32 on
    the CPU, of the parameter's own shape. They are dealt to the ranks in turn.

    Every rank must go to the end: each tensor is gathered on all of them together.
    """
    for number, (name, parameter) in enumerate(trained_parameters(engine)):
        state = {WEIGHT: deepspeed.utils.safe_get_full_fp32_param(parameter)}
        for moment in MOMENTS:
            state[moment] = deepspeed.utils.safe_get_full_optimizer_state(parameter, moment)
        if number % dist.get_world_size() == dist.get_rank():
            yield name, {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def restore(engine, read: Callable[[str, str], Tensor], num_steps: int) -> None:
    """Puts weights and optimizer state back, exactly.

    Args:
        read: (parameter's name, `weight` or a moment) -> the whole tensor.
        num_steps: optimizer steps that the state has seen, for Adam's bias correction.
    """
    _create_optimizer_state(engine, num_steps)
    for name, parameter in trained_parameters(engine):
        _set(parameter, read(name, WEIGHT), None)
        for moment in MOMENTS:
            _set(parameter, read(name, moment), moment)


def _create_optimizer_state(engine, num_steps: int) -> None:
    """AdamW makes its state in its first step; it is needed before."""
    for flat in _flat_parameters(engine):
        step = torch.tensor(float(num_steps), device=flat.device)  # where fused AdamW wants it
        state = {moment: torch.zeros_like(flat) for moment in MOMENTS}
        engine.optimizer.optimizer.state[flat] = {"step": step, **state}
    if not _is_partitioned(engine):
        engine.optimizer._lazy_init_hp_params_optimizer_state()  # ZeRO-2 looks moments up through links made here


def _flat_parameters(engine) -> list[Tensor]:
    """This rank's float32 weights, as AdamW sees them. ZeRO-3 shows them to it only while it steps."""
    if _is_partitioned(engine):
        return engine.optimizer.fp32_partitioned_groups_flat
    return [flat for group in engine.optimizer.optimizer.param_groups for flat in group["params"]]


def _is_partitioned(engine) -> bool:
    return engine.zero_optimization_stage() == 3


def _set(parameter: nn.Parameter, value: Tensor, moment: str | None) -> None:
    if hasattr(parameter, "ds_id"):
        _set_partition(parameter, value, moment)
    elif moment is None:
        deepspeed.utils.safe_set_full_fp32_param(parameter, value)
    else:
        deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)


def _set_partition(parameter: nn.Parameter, value: Tensor, moment: str | None) -> None:
    """ZeRO-3: this rank's part. (DeepSpeed's call for whole tensors fails where ranks do not divide the size.)"""
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # DeepSpeed sets it
    padded = nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    part = padded.narrow(0, size * dist.get_rank(), size)
    if moment is None:
        deepspeed.utils.safe_set_local_fp32_param(parameter, part)
    else:
        deepspeed.utils.safe_set_local_optimizer_state(parameter, part, moment)
