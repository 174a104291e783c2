"""Whether the weights of each trained group change, and whether it gets a gradient, read from a ZeRO engine's own
state.

No hooks, no copies: a checksum of the float32 weights, and the sum of AdamW's second moments, which is a sum of squared
gradients that no step can make smaller than its decay.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import deepspeed.utils
import torch
import torch.distributed as dist
from torch import Tensor, nn

from sa2va_ray.models.parts import trained_group
from sa2va_ray.train.engine.zero_state import trained_parameters

_SQUARES = "exp_avg_sq"
_CHUNK = 2**24  # values that are widened to 8 bytes at a time


@dataclass(frozen=True)
class GroupState:
    """Attributes:
    checksum: of all bits of the float32 weights, over all ranks.
    squares: sum of AdamW's second moments, over all ranks; 0 before the first step.
    """

    checksum: int
    squares: float


def group_states(engine, has_stepped: bool) -> dict[str, GroupState]:
    """State of each trained group, by `trained_group`. All ranks must call it together and get the same.

    `has_stepped`: the optimizer has moments, from a step or from a checkpoint.
    """
    checksums: dict[str, int] = {}
    squares: dict[str, float] = {}
    for name, parameter in trained_parameters(engine):
        group = trained_group(name)
        checksums.setdefault(group, 0)
        squares.setdefault(group, 0.0)
        for weight in _local(parameter, None):
            checksums[group] += sum(int(part.view(torch.int32).sum()) for part in weight.flatten().split(_CHUNK))
        if has_stepped:
            for moments in _local(parameter, _SQUARES):
                squares[group] += sum(float(part.double().sum()) for part in moments.flatten().split(_CHUNK))
    bits = torch.tensor([_wrapped(each) for each in checksums.values()], dtype=torch.int64, device=engine.device)
    sums = torch.tensor(list(squares.values()), dtype=torch.float64, device=engine.device)
    dist.all_reduce(bits)
    dist.all_reduce(sums)
    return {group: GroupState(*both) for group, *both in zip(checksums, bits.tolist(), sums.tolist(), strict=True)}


def _local(parameter: nn.Parameter, moment: str | None) -> Iterator[Tensor]:
    """This rank's share of the float32 weight or of a moment; none where ZeRO-2 gave it no share."""
    if hasattr(parameter, "ds_id"):
        yield _local_partition(parameter, moment)
    elif (mapping := getattr(parameter, "_hp_mapping")) is not None:  # noqa: B009  DeepSpeed sets it
        yield mapping.get_hp_fragment(moment)


def _local_partition(parameter: Any, moment: str | None) -> Tensor:
    """ZeRO-3: without the padding behind the last rank's share, which holds anything."""
    if moment is None:
        part = deepspeed.utils.safe_get_local_fp32_param(parameter)
    else:
        part = deepspeed.utils.safe_get_local_optimizer_state(parameter, moment)
    before = part.numel() * dist.get_rank()
    return part[: max(parameter.ds_numel - before, 0)]


def _wrapped(number: int) -> int:
    """A sum of checksums, wrapped into the range of int64."""
    return (number + 2**63) % 2**64 - 2**63
