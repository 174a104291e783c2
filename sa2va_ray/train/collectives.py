"""What the ranks of a run tell one another. Each function is called by all ranks at the same place."""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")


def any_rank(engine, flag: bool) -> bool:
    """Whether it is so on any rank; the same on all of them."""
    return sum_over_ranks(engine, [float(flag)])[0] > 0


def sum_over_ranks(engine, values: Sequence[float]) -> list[float]:
    """The sum of each value over the ranks, in float64; the same on all of them."""
    summed = torch.tensor(values, dtype=torch.float64, device=engine.device)
    dist.all_reduce(summed)
    return summed.tolist()


def gather_objects(value: T) -> list[T]:
    """What each rank gives, in the order of the ranks, on all of them."""
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(compute: Callable[[], T]) -> T:
    """What rank 0 computes, on all ranks; the others do not compute it."""
    answer = [compute() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(answer, src=0)
    return cast(T, answer[0])
