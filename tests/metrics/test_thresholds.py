"""All thresholds from counts, against masks that are made one by one."""

import numpy as np
import pytest

from sa2va_ray.metrics import THRESHOLDS, dequantise, overlap_metrics, probability_counts, quantise, sweep


def image(seed: int, empty_truth: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.beta(0.4, 0.8, (40, 30)).astype(np.float32)
    # On the edges of the bins a mask must decide as the counts do.
    probabilities[:8] = (random.integers(0, 257, (8, 30)) / 256).astype(np.float32)
    truth = np.zeros((40, 30), bool) if empty_truth else random.random((40, 30)) < probabilities
    return probabilities, truth


@pytest.mark.parametrize("empty_truth", [False, True])
def test_each_threshold_gives_exactly_its_mask(empty_truth):
    probabilities, truth = image(0, empty_truth)
    curves = sweep(probability_counts(quantise(probabilities), truth))
    for place, threshold in enumerate(THRESHOLDS):
        expected = overlap_metrics(probabilities > threshold, truth)
        assert {name: curves[name][place] for name in ("dice", "precision", "recall")} == {
            name: expected[name] for name in ("dice", "precision", "recall")
        }


def test_an_empty_mask_of_an_empty_truth_is_right():
    counts = probability_counts(np.zeros((5, 5), np.uint16), np.zeros((5, 5), bool))
    for curve in sweep(counts).values():
        np.testing.assert_array_equal(curve, 1.0)


def test_levels_keep_sixteen_bits_and_the_side_of_every_threshold():
    probabilities, _ = image(1)
    levels = quantise(probabilities)
    assert levels.dtype == np.uint16
    assert np.abs(dequantise(levels) - probabilities).max() <= 2**-17 + 1e-9
    for threshold in THRESHOLDS:
        np.testing.assert_array_equal(dequantise(levels) > threshold, probabilities > threshold)
    assert quantise(np.array([0.0, 1.0], np.float32)).tolist() == [0, 65535]


def test_fbeta_by_hand():
    # 6 found, 2 missed, 3 wrong at any threshold: recall 3 / 4, precision 2 / 3.
    truth = np.array([True] * 8 + [False] * 6)[None]
    levels = np.array([65535] * 6 + [0] * 2 + [65535] * 3 + [0] * 3, np.uint16)[None]
    curves = sweep(probability_counts(levels, truth), beta=2.0)
    np.testing.assert_allclose(curves["fbeta"], 5 * (2 / 3) * (3 / 4) / (4 * (2 / 3) + 3 / 4))
    np.testing.assert_allclose(curves["dice"], 12 / 17)


def test_counts_of_images_can_be_stacked_and_added():
    counts = np.stack([probability_counts(quantise(p), t) for p, t in (image(2), image(3))])
    np.testing.assert_array_equal(sweep(counts)["dice"][1], sweep(counts[1])["dice"])
    both = [np.concatenate(parts) for parts in zip(image(2), image(3), strict=True)]
    np.testing.assert_array_equal(
        sweep(counts.sum(axis=0))["dice"], sweep(probability_counts(quantise(both[0]), both[1]))["dice"]
    )
