"""The consensus of annotators. The numbers of STAPLE are SimpleITK 2.5.7's (`STAPLEImageFilter`, float64), once."""

import numpy as np
import pytest

from sa2va_ray.images.consensus import consensus, staple


def draw(seed: int, size: tuple[int, int], missed: list[float], added: list[float]) -> np.ndarray:
    """(R, H, W) bool: a ring, as annotators draw it who miss some of it and add some."""
    height, width = size
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    distances = (columns - width * 0.4) ** 2 + (rows - height * 0.5) ** 2
    ring = (distances < (height * 0.3) ** 2) & ~(distances < (height * 0.2) ** 2)
    masks = [
        np.where(ring, random.random(size) > miss, random.random(size) < add)
        for miss, add in zip(missed, added, strict=True)
    ]
    return np.stack(masks)


REFERENCES = [
    # drawn, sensitivity, specificity, pixels above a half, sum of the probabilities
    (
        (0, (24, 32), [0.05, 0.2, 0.4], [0.01, 0.05, 0.02]),
        [0.98812743, 0.713874539, 0.650045337],
        [0.980654315, 0.959019878, 0.982998256],
        82,
        89.95061,
    ),
    ((1, (24, 32), [0.1, 0.3], [0.02, 0.02]), [0.855272134, 0.79551567], [0.971783381, 0.97980825], 64, 93.499949),
    (
        (2, (40, 40), [0.1, 0.1, 0.2, 0.3, 0.5], [0.01, 0.02, 0.03, 0.04, 0.2]),
        [0.91970142, 0.89672944, 0.809812556, 0.714683919, 0.44622375],
        [0.99136417, 0.976818543, 0.962417144, 0.969430278, 0.796938034],
        246,
        247.164056,
    ),
    (
        (3, (20, 20), [0.0, 0.0, 0.1, 0.9], [0.0, 0.0, 0.02, 0.3]),
        [1.0, 1.0, 0.90625, 0.125],
        [1.0, 1.0, 0.979166667, 0.720238095],
        64,
        64.0,
    ),
]


@pytest.mark.parametrize(("drawn", "sensitivity", "specificity", "num_likely", "total"), REFERENCES)
def test_staple_gives_the_numbers_of_simpleitk(drawn, sensitivity, specificity, num_likely, total):
    probability, own_sensitivity, own_specificity = staple(draw(*drawn))
    np.testing.assert_allclose(own_sensitivity, sensitivity, atol=1e-8)
    np.testing.assert_allclose(own_specificity, specificity, atol=1e-8)
    assert np.count_nonzero(probability > 0.5) == num_likely
    assert probability.sum() == pytest.approx(total, abs=1e-5)


def test_a_majority_is_more_than_half():
    masks = draw(2, (8, 8), [0.3] * 4, [0.2] * 4)
    votes = masks.sum(axis=0)
    assert (votes == 2).any()
    np.testing.assert_array_equal(consensus(masks, "majority"), votes > 2)
    np.testing.assert_array_equal(consensus(masks[:2], "majority"), masks[0] & masks[1])


def test_staple_follows_those_who_agree_with_each_other():
    good = draw(3, (32, 32), [0.02, 0.02], [0.0, 0.0])
    bad = draw(4, (32, 32), [0.9, 0.9, 0.9], [0.0, 0.0, 0.0])
    ring = draw(0, (32, 32), [0.0], [0.0])[0]
    masks = np.concatenate([good, bad])
    by_staple, by_majority = consensus(masks, "staple"), consensus(masks, "majority")
    assert np.count_nonzero(by_staple & ring) > 0.9 * ring.sum() > 3 * np.count_nonzero(by_majority & ring)


@pytest.mark.parametrize("method", ["majority", "staple"])
@pytest.mark.parametrize("value", [False, True])
def test_all_agree_on_everything(method, value):
    assert (consensus(np.full((3, 4, 5), value), method) == value).all()


def test_pixels_that_do_not_count_judge_nobody():
    masks = draw(5, (24, 32), [0.1, 0.2, 0.3], [0.02, 0.05, 0.1])
    wide = np.pad(masks, ((0, 0), (40, 40), (40, 40)))
    counts = np.pad(np.ones((24, 32), bool), 40)
    probability, *rates = staple(wide, counts)
    expected, *expected_rates = staple(masks)
    np.testing.assert_allclose(probability[40:-40, 40:-40], expected, atol=1e-9)
    np.testing.assert_allclose(rates, expected_rates, atol=1e-9)
    assert np.abs(staple(wide)[2] - rates[1]).max() > 0.01
