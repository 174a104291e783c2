"""Values that the ranks of a run exchange. Each function is called by all ranks at the same place."""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def any_rank(engine, flag: bool | Tensor) -> bool:
    """Whether `flag` is true on any rank; all ranks get the same answer."""
    return sum_over_ranks(engine, torch.as_tensor(flag).reshape(1))[0] > 0


def sum_over_ranks(engine, values: Sequence[float] | Tensor) -> list[float]:
    """The sum of each value over the ranks, in float64; all ranks get the same sums. Values of a GPU are best given as
    one tensor: then it is waited for once."""
    summed = torch.as_tensor(values).to(engine.device, torch.float64, copy=True)
    dist.all_reduce(summed)
    return summed.tolist()


def gather_objects(value: T) -> list[T]:
    """The values of all ranks, in the order of the ranks, on all of them."""
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(compute: Callable[[], T]) -> T:
    """Computes a value on rank 0 alone, and gives it to all ranks."""
    answer = [compute() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(answer, src=0)
    return cast(T, answer[0])
