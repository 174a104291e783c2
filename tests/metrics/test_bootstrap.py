"""How sure a mean is."""

import numpy as np
import pytest

from sa2va_ray.metrics import bootstrap_interval, pooled_interval


def test_an_interval_covers_the_mean_as_often_as_it_says():
    """400 samples of 40 patients from one distribution: 95 % is 380, three standard deviations of the count are 13,
    and the percentile bootstrap of 40 is a little too narrow."""
    random = np.random.default_rng(0)
    intervals = [bootstrap_interval(random.beta(8, 2, 40), seed=1) for _ in range(400)]
    covered = sum(low < 0.8 < high for low, high in intervals)
    assert 360 <= covered <= 393


def test_an_interval_is_as_wide_as_the_theory_says():
    values = np.random.default_rng(2).normal(0.7, 0.1, 200)
    low, high = bootstrap_interval(values, seed=0)
    half_width = 1.96 * values.std() / np.sqrt(200)
    # 2,000 resamples: the 2.5 % quantile has a standard deviation of about 6 % of that.
    assert low == pytest.approx(values.mean() - half_width, abs=0.2 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.2 * half_width)


def test_intervals_of_few_patients():
    assert bootstrap_interval([0.5], seed=0) is None
    assert bootstrap_interval([], seed=0) is None
    assert bootstrap_interval([0.5, 0.9], seed=0) == (0.5, 0.9)
    assert bootstrap_interval([0.7, 0.7, 0.7], seed=0) == pytest.approx((0.7, 0.7))


def test_a_seed_makes_an_interval_repeatable():
    values = np.random.default_rng(3).random(12)
    assert bootstrap_interval(values, seed=5) == bootstrap_interval(values, seed=5)
    assert bootstrap_interval(values, seed=5) != bootstrap_interval(values, seed=6)


def test_pooled_patients_weigh_by_their_denominators():
    # Each resample of two patients has one, the other, or both: 1 / 10, 30 / 40, or 31 / 50.
    assert pooled_interval([1, 30], [10, 40], seed=0) == pytest.approx((0.1, 0.75))


def test_patients_without_a_denominator_have_no_part():
    assert pooled_interval([1, 30, 0], [10, 40, 0], seed=0) == pooled_interval([1, 30], [10, 40], seed=0)
    assert pooled_interval([1, 0], [10, 0], seed=0) is None


def test_with_equal_denominators_pooling_is_the_mean():
    values = np.random.default_rng(5).random(30)
    assert pooled_interval(list(7 * values), [7] * 30, seed=1) == pytest.approx(bootstrap_interval(values, seed=1))
