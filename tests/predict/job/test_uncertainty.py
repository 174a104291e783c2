import numpy as np
import pytest

from sa2va_ray.predict.job.uncertainty import disagreement, mean_entropy


def test_entropy_is_that_of_what_is_seen_however_large_the_background():
    probability = np.zeros((4, 4))
    probability[0] = 0.5, 0.5, 1, 0.9
    expected = np.mean([1, 1, 0, -0.9 * np.log2(0.9) - 0.1 * np.log2(0.1)])
    assert mean_entropy(probability) == pytest.approx(expected)
    wide = np.pad(probability, 100, constant_values=0.049)
    assert mean_entropy(wide) == pytest.approx(expected)


def test_entropy_of_a_sure_answer_an_even_one_and_none():
    assert mean_entropy(np.eye(8)) == pytest.approx(0, abs=1e-9)
    assert mean_entropy(np.full((8, 8), 0.5, np.float32)) == 1
    assert mean_entropy(np.full((8, 8), 0.01)) is None


def test_disagreement_of_views():
    left, right = np.eye(4, dtype=bool), np.eye(4, dtype=bool)[::-1]
    empty = np.zeros((4, 4), bool)
    assert disagreement([left, left, left, left]) == 0
    assert disagreement([left, right]) == 1
    assert disagreement([left, left, right]) == pytest.approx(2 / 3)
    assert disagreement([empty, empty]) == 0
    assert disagreement([empty, left]) == 1
