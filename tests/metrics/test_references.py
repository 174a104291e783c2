"""The metrics against those of others: scikit-image, DeepMind's surface-distance, MONAI."""

import cv2
import numpy as np
import pytest
import surface_distance
import torch
from skimage.measure import euler_number, label

from sa2va_ray.metrics import betti_errors, overlap_metrics, surface_metrics


def vessels(seed: int) -> np.ndarray:
    """(96, 120) bool: something like vessels, with loops, pieces and parts at the border."""
    noise = np.random.default_rng(seed).normal(size=(96, 120)).astype(np.float32)
    ridges = np.abs(cv2.GaussianBlur(noise, (0, 0), 4))
    return ridges < np.quantile(ridges, 0.2)


PAIRS = [(vessels(seed), vessels(seed + 100)) for seed in range(8)]
PAIRS += [(mask, np.roll(mask, 2, axis=1)) for mask, _ in PAIRS]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("tolerance_px", [0.5, 1.0, 2.0, 5.0])
def test_outlines_are_those_of_surface_distance(pair, tolerance_px):
    prediction, truth = pair
    distances = surface_distance.compute_surface_distances(truth, prediction, (1, 1))
    # OpenCV's distances are float32: of up to 150 px, to about 1e-5.
    assert surface_metrics(prediction, truth, tolerance_px) == pytest.approx(
        {
            "hd95": surface_distance.compute_robust_hausdorff(distances, 95),
            "surface_dice": surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_px),
        },
        abs=1e-4,
    )


@pytest.mark.parametrize("mask", [mask for pair in PAIRS for mask in pair])
def test_pieces_and_loops_are_those_of_scikit_image(mask):
    empty = np.zeros_like(mask)
    errors = betti_errors(mask, empty)
    assert errors["betti0_error"] == label(mask, connectivity=2).max()
    assert errors["betti0_error"] - errors["betti1_error"] == euler_number(mask, connectivity=2)


@pytest.fixture(scope="module")
def monai():
    import monai.metrics  # takes seconds

    return monai.metrics


def to_monai(mask: np.ndarray) -> torch.Tensor:
    """(1, 1, H, W)"""
    return torch.from_numpy(mask)[None, None].float()


@pytest.mark.parametrize("pair", PAIRS[::3])
def test_overlap_is_that_of_monai(monai, pair):
    prediction, truth = map(to_monai, pair)
    counts = monai.get_confusion_matrix(prediction, truth)
    expected = {
        "dice": monai.compute_dice(prediction, truth),
        "iou": monai.compute_iou(prediction, truth),
        "precision": monai.compute_confusion_matrix_metric("precision", counts),
        "recall": monai.compute_confusion_matrix_metric("recall", counts),
    }
    assert overlap_metrics(*pair) == pytest.approx({name: value.item() for name, value in expected.items()}, abs=1e-6)


@pytest.mark.parametrize("pair", PAIRS[::3])
def test_surface_dice_is_that_of_monai(monai, pair):
    expected = monai.compute_surface_dice(*map(to_monai, pair), [1.0], include_background=True, use_subvoxels=True)
    assert surface_metrics(*pair, 1.0)["surface_dice"] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("pair", PAIRS[::3])
def test_hd95_is_near_that_of_monai(monai, pair):
    """MONAI measures between the middles of border pixels, we between the corners on the outline, which are at most
    sqrt(1 / 2) from one such middle: both ends together, distances differ by at most sqrt(2)."""
    expected = monai.compute_hausdorff_distance(*map(to_monai, pair), include_background=True, percentile=95)
    assert surface_metrics(*pair)["hd95"] == pytest.approx(expected.item(), abs=2**0.5)
