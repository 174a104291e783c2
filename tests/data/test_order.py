"""The plan of an epoch: every sample as often as planned, over any number of ranks, in equally many micro steps."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from sa2va_ray.data.order import RUN_LENGTH, RUNS_PER_WINDOW, EpochPlan

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
        for step in range(plan.num_steps):
            seen.update(plan.samples(plan.positions(step)).tolist())
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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_step_sizes_are_those_of_all_ranks_together(case):
    ranks = plans(*case)
    for step in range(ranks[0].num_steps):
        assert ranks[0].step_size(step) == sum(len(plan.positions(step)) for plan in ranks)
    assert sum(map(ranks[0].step_size, range(ranks[0].num_steps))) == ranks[0].samples_per_epoch


def test_a_run_that_goes_on_with_other_ranks_sees_what_is_left():
    def positions(world: int, steps: range) -> list[int]:
        return sorted(int(p) for plan in plans(23, 3, 8, 2, world) for step in steps for p in plan.positions(step))

    whole = positions(4, range(9))
    for stopped in range(9):
        for world in (1, 2, 3):
            assert sorted(positions(4, range(stopped)) + positions(world, range(stopped, 9))) == whole == [*range(69)]


def test_order_follows_seed_epoch_and_repeat():
    everything = np.arange(46)
    first, again, next_epoch = (plans(23, 2, 4, 1, 1, epoch)[0].samples(everything) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, next_epoch)
    assert not np.array_equal(first[:23], first[23:])
    assert not np.array_equal(first, replace(plans(23, 2, 4, 1, 1)[0], seed=8).samples(everything))


def test_samples_do_not_depend_on_what_else_is_asked_for():
    plan = plans(23, 3, 4, 1, 1)[0]
    whole = plan.samples(np.arange(69))
    np.testing.assert_array_equal(plan.samples(np.array([68, 1, 30])), whole[[68, 1, 30]])


def test_a_large_set_is_shuffled_by_windows_of_files():
    num_samples = 3 * RUN_LENGTH * RUNS_PER_WINDOW
    samples = plans(num_samples, 1, 4, 1, 1)[0].samples(np.arange(num_samples))
    for window in np.split(samples, 3):
        assert len(np.unique(window // RUN_LENGTH)) == RUNS_PER_WINDOW
        assert np.abs(np.diff(window)).mean() > num_samples / 10


def test_a_large_set_with_a_short_run_is_whole():
    num_samples = 3 * RUN_LENGTH * RUNS_PER_WINDOW - 100
    samples = plans(num_samples, 1, 4, 1, 1)[0].samples(np.arange(num_samples))
    np.testing.assert_array_equal(np.sort(samples), np.arange(num_samples))
