"""Learning rate over a run."""

from itertools import pairwise

import pytest

from sa2va_ray.train.config import OptimConfig
from sa2va_ray.train.schedule import learning_rate


def test_warm_up_peak_and_cosine():
    config = OptimConfig(lr=1.0, warmup_ratio=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_without_warm_up_the_first_step_has_the_peak():
    assert learning_rate(0, 3, OptimConfig(lr=0.5, warmup_ratio=0.0)) == 0.5
