"""Image and masks move together, thin vessels survive it, and steps do not disturb each other."""

import cv2
import numpy as np
import pytest
from skimage.measure import label

from sa2va_ray.config import UserError
from sa2va_ray.data.augment import AugmentConfig, augment, possible_sizes

POSES = AugmentConfig(**{**AugmentConfig.off().model_dump(), "flip_probability": 0.5, "turn_probability": 0.75})
PROBABILITIES = [name for name in AugmentConfig.model_fields if name.endswith("_probability")]
MOVES = ["flip_probability", "turn_probability", "affine_probability", "elastic_probability"]
COLOURS = [name for name in PROBABILITIES if name not in MOVES]


def only(*names: str, **magnitudes: float) -> AugmentConfig:
    """The steps of these probabilities always, no other."""
    return AugmentConfig.parse({**AugmentConfig.off().model_dump(), **dict.fromkeys(names, 1.0), **magnitudes})


def texture(height: int = 96, width: int = 128, channels: int = 3) -> np.ndarray:
    """(H, W, 3) uint8 with smooth structures; grey with one channel."""
    noise = np.random.default_rng(1).standard_normal((height, width, channels)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4).reshape(height, width, channels)
    scaled = np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(scaled, (height, width, 3)))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.sum(one & other) / (np.sum(one) + np.sum(other))


@pytest.mark.parametrize("seed", range(12))
def test_flips_and_turns_are_exact(seed):
    image = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
    masks = np.stack([image[..., 0] > 99, image[..., 1] > 199])
    moved, moved_masks = augment(image, masks, POSES, np.random.default_rng(seed))
    np.testing.assert_array_equal(moved_masks, np.stack([moved[..., 0] > 99, moved[..., 1] > 199]))
    assert sorted(moved.ravel()) == sorted(image.ravel())


def test_all_eight_poses_occur():
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    random = np.random.default_rng(0)
    poses = {augment(image, image[None, ..., 0] > 5, POSES, random)[0].tobytes() for _ in range(200)}
    assert len(poses) == 8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("step", ["affine_probability", "elastic_probability"])
def test_warped_masks_lie_on_the_warped_image_to_its_borders(step, channels):
    """Wide borders are mirrored in by the translation."""
    image = texture(channels=channels)
    masks = np.stack([image[..., 0] > 128, image[..., 1] < 100])
    config = only(step, translation_fraction=0.4, elastic_amplitude_fraction=0.017)
    moves = []
    for seed in range(5):
        moved, moved_masks = augment(image, masks, config, np.random.default_rng(seed))
        # Image and mask are resampled and cut in different ways: pixels near the level of the edge are left out.
        for mask, value, inside in zip(moved_masks, (128, 100), (1, -1), strict=True):
            level = moved[..., 0 if inside == 1 else 1].astype(int)
            clear = np.abs(level - value) > 12
            assert np.mean(mask[clear] == (inside * (level - value) > 0)[clear]) > 0.999
        moves.append(dice(masks[0], moved_masks[0]))
    assert min(moves) < 0.97


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(turn_probability=0), AugmentConfig.off()])
def test_no_image_gets_another_size_than_the_possible_ones(config):
    image, masks = texture(24, 40), np.zeros((1, 24, 40), bool)
    sizes = {augment(image, masks, config, np.random.default_rng(seed))[0].shape[:2] for seed in range(60)}
    assert sizes == possible_sizes(24, 40, config)


def test_a_rotation_is_about_the_centre():
    disc = np.zeros((101, 141), np.uint8)
    cv2.ellipse(disc, (70, 50), (30, 12), 0, 0, 360, 255, -1)
    config = only("affine_probability", scale_fraction=0, shear_deg=0, translation_fraction=0, rotation_deg=90)
    _, masks = augment(np.dstack([disc] * 3), disc[None] > 0, config, np.random.default_rng(1))
    np.testing.assert_allclose(np.argwhere(masks[0]).mean(axis=0), [50, 70], atol=0.2)
    assert dice(masks[0], disc > 0) < 0.9


def test_thin_vessels_survive():
    """Lines of 1 px fall into 15 pieces when cut at one half, into 10 with nearest neighbour."""
    ends = np.linspace(-80, 80, 41)
    curve = np.stack([128 + ends, 128 + 0.6 * ends + 12 * np.sin(ends / 25)], axis=1)
    pieces: dict[int, list[int]] = {1: [], 2: []}
    for width, counts in pieces.items():
        vessel = np.zeros((256, 256), np.uint8)
        cv2.polylines(vessel, [np.rint(curve).astype(np.int32)], False, 255, width)
        for seed in range(15):
            _, masks = augment(
                np.dstack([vessel] * 3), vessel[None] > 0, only("affine_probability"), np.random.default_rng(seed)
            )
            counts.append(label(masks[0], connectivity=2).max())
    assert np.mean(pieces[1]) < 5
    assert max(pieces[2]) == 1


@pytest.mark.parametrize("name", PROBABILITIES)
def test_each_step_follows_its_seed_and_can_be_turned_off(name):
    image = texture(256, 256)
    masks = image[None, ..., 0] > 128
    results = [augment(image, masks, only(name), np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4)]
    for one, again in zip(*results[:2], strict=True):
        np.testing.assert_array_equal(one, again)
    distinct = {result[0].tobytes() for result in results}
    assert distinct != {image.tobytes()}
    if name not in ("flip_probability", "inversion_probability"):  # when they are certain they are all alike
        assert len(distinct) > 1
    if name in COLOURS:
        np.testing.assert_array_equal(results[0][1], masks)
    unchanged, same = augment(image, masks, AugmentConfig.off(), np.random.default_rng(1))
    np.testing.assert_array_equal(unchanged, image)
    np.testing.assert_array_equal(same, masks)


def test_no_step_changes_what_another_draws():
    flat, masks = np.full((64, 64, 3), 128, np.uint8), texture(64, 64)[None, ..., 0] > 128
    noise, moves = only("noise_probability"), only(*MOVES)
    noisy = augment(flat, masks, noise, np.random.default_rng(5))[0]
    moved = augment(flat, masks, moves, np.random.default_rng(5))[1]
    for name in MOVES:  # no move changes a flat image
        other = only("noise_probability", name)
        np.testing.assert_array_equal(augment(flat, masks, other, np.random.default_rng(5))[0], noisy)
    for name in COLOURS:
        other = only(*MOVES, name)
        np.testing.assert_array_equal(augment(flat, masks, other, np.random.default_rng(5))[1], moved)
    image, table = texture(64, 64), ("contrast_probability", "gamma_probability")
    plain = augment(image, masks, only(*table), np.random.default_rng(5))[0]
    inverted = augment(image, masks, only(*table, "inversion_probability"), np.random.default_rng(5))[0]
    assert np.abs(inverted.astype(int) - (255 - plain.astype(int))).max() <= 1  # halves are rounded to even


def test_what_the_caller_draws_next_does_not_depend_on_the_config():
    image = texture()
    following = []
    for config in (AugmentConfig(), AugmentConfig.off()):
        random = np.random.default_rng(8)
        augment(image, image[None, ..., 0] > 128, config, random)
        following.append(random.random())
    assert following[0] == following[1]


def test_grey_images_stay_grey():
    grey = texture(channels=1)
    changed = augment(grey, grey[None, ..., 0] > 128, only(*PROBABILITIES), np.random.default_rng(4))[0]
    np.testing.assert_array_equal(changed[..., :1].repeat(3, axis=2), changed)


def test_colours_keep_their_channels():
    image = texture()
    config = only(*COLOURS, inversion_probability=0)
    changed = augment(image, image[None, ..., 0] > 128, config, np.random.default_rng(4))[0]
    similar = np.corrcoef(image.reshape(-1, 3), changed.reshape(-1, 3), rowvar=False)[:3, 3:]
    assert similar.diagonal().min() > 0.9
    assert (similar - np.diag(similar.diagonal())).max() < 0.5


@pytest.mark.parametrize("num_masks", [0, 1, 7])
def test_masks_are_independent_of_each_other(num_masks):
    image = texture()
    image.flags.writeable = False  # as decoders give it
    masks = np.stack([image[..., 0] > 30 * number for number in range(7)])[:num_masks]
    config = only("turn_probability", "affine_probability", "elastic_probability")
    moved, together = augment(image, masks, config, np.random.default_rng(9))
    assert together.shape == (num_masks, *moved.shape[:2])
    assert together.dtype == bool
    for number in range(num_masks):
        alone = augment(image, masks[number : number + 1], config, np.random.default_rng(9))[1]
        np.testing.assert_array_equal(together[number], alone[0])


def test_a_field_that_folds_the_image_is_refused():
    with pytest.raises(UserError, match=r"elastic_amplitude_fraction 0\.05 is above 0\.35 x elastic_sigma_fraction"):
        only("elastic_probability", elastic_amplitude_fraction=0.05)


def test_magnitudes_are_fractions_of_width_and_height():
    mask = np.zeros((60, 300), bool)
    mask[20:40, 140:160] = True
    none = {"rotation_deg": 0, "shear_deg": 0, "scale_fraction": 0, "translation_fraction": 0}

    def moved(**magnitudes: float) -> np.ndarray:
        """(100, 3): by how much down and right, and how much larger a side."""
        config, image = only("affine_probability", **{**none, **magnitudes}), np.dstack([mask] * 3).astype(np.uint8)
        masks = [augment(image, mask[None], config, np.random.default_rng(seed))[1][0] for seed in range(100)]
        before = np.argwhere(mask).mean(axis=0)
        return np.array(
            [[*(np.argwhere(each).mean(axis=0) - before), np.sqrt(each.sum() / mask.sum())] for each in masks]
        )

    down, right, _ = np.abs(moved(translation_fraction=0.1)).max(axis=0)
    assert (down, right) == pytest.approx((6, 30), abs=1)
    assert moved(scale_fraction=1)[:, 2].max() == pytest.approx(2, abs=0.05)


def test_a_warp_keeps_the_contrast_of_fine_structures():
    stripes = (128 + 100 * np.cos(np.pi / 2 * np.arange(128))).astype(np.uint8)  # of 2 px
    image = np.ascontiguousarray(np.broadcast_to(stripes[None, :, None], (64, 128, 3)))
    config = only("affine_probability", rotation_deg=0, shear_deg=0, scale_fraction=0)
    moved = [augment(image, image[None, ..., 0] > 0, config, np.random.default_rng(seed))[0] for seed in range(20)]
    assert np.mean([each.std() for each in moved]) > 0.93 * image.std()
