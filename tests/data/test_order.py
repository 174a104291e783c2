"""The plan of an epoch: every sample as often as planned, over any number of ranks, in equally many micro steps."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from sa2va_ray.data.order import EpochPlan

CASES = list(product([5, 8, 23], [1, 3], [4, 6], [1, 2, 5], [1, 2, 3, 4]))


def plans(num_samples, repeats, global_batch_size, micro_batch_size, world_size, epoch=0):
    return [
        EpochPlan(num_samples, repeats, 7, epoch, global_batch_size, micro_batch_size, rank, world_size)
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_sample_is_seen_as_often_as_planned(case):
    seen: Counter = Counter()
    for plan in plans(*case):
        order = plan.order()
        for step in range(plan.num_steps):
            seen.update(order[plan.positions(step)].tolist())
    assert seen == dict.fromkeys(range(case[0]), case[1])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_make_the_same_number_of_micro_steps(case):
    ranks = plans(*case)
    for step in range(ranks[0].num_steps):
        sizes = [plan.micro_batch_sizes(step) for plan in ranks]
        assert len({len(of_rank) for of_rank in sizes}) == 1
        assert max(max(of_rank) for of_rank in sizes) <= case[3]
        assert [sum(of_rank) for of_rank in sizes] == [len(plan.positions(step)) for plan in ranks]


def test_a_step_is_the_same_samples_for_any_number_of_ranks():
    for step in range(3):
        steps = {
            world: sorted(int(p) for plan in plans(23, 1, 8, 2, world) for p in plan.positions(step))
            for world in (1, 2, 4)
        }
        assert steps[1] == steps[2] == steps[4]


def test_order_follows_seed_and_epoch():
    first, again, next_epoch = (plans(23, 2, 4, 1, 1, epoch)[0].order() for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, next_epoch)
