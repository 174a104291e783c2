"""Image and masks move together, and no pixel changes its value."""

import numpy as np
import pytest

from sa2va_ray.data.augment import AugmentConfig, augment


@pytest.mark.parametrize("seed", range(12))
def test_image_and_masks_move_together(seed):
    image = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
    masks = np.stack([image[..., 0] > 99, image[..., 1] > 199])
    moved, moved_masks = augment(image, masks, AugmentConfig(), np.random.default_rng(seed))
    np.testing.assert_array_equal(moved_masks, np.stack([moved[..., 0] > 99, moved[..., 1] > 199]))
    assert sorted(moved.ravel()) == sorted(image.ravel())


def test_all_eight_poses_occur():
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    random = np.random.default_rng(0)
    poses = {augment(image, image[None, ..., 0] > 5, AugmentConfig(), random)[0].tobytes() for _ in range(200)}
    assert len(poses) == 8


def test_it_can_be_turned_off():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    off = AugmentConfig(flip_probability=0, turn_probability=0)
    np.testing.assert_array_equal(augment(image, image[None, ..., 0] > 5, off, np.random.default_rng(0))[0], image)
