"""Losses on cases with known answers."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.morphology import skeletonize
from torch import Tensor

from sa2va_ray.config import UserError
from sa2va_ray.train.config import LossConfig
from sa2va_ray.train.losses import (
    OBJECT_LOSSES,
    cldice_loss,
    language_loss,
    largest_side,
    mask_losses,
    object_losses,
    of_one_size,
    sample_at,
    sample_points,
    shrink_to,
    skeleton_recall_loss,
    soft_cldice_loss,
    soft_dice_loss,
    soft_recall_loss,
    soft_skeleton,
)

MASK_SIZES = ("truth", "logits", 512, 1024)
WEIGHTS = {f"{name}_weight": 1 / number for number, name in enumerate(OBJECT_LOSSES, start=1)}
ALL_PARTS = LossConfig(num_points=256, cldice_size=64, **WEIGHTS)


def crisp(mask: Tensor) -> Tensor:
    """Logits of a mask that is sure of itself: (..., H, W) bool -> float32."""
    return torch.where(mask, 99.0, -99.0)


def test_language_loss_is_a_sum_over_tokens():
    logits = torch.zeros(3, 8)
    assert language_loss(logits, torch.tensor([1, 2, 3])).item() == pytest.approx(3 * math.log(8))


def test_sample_at_reads_pixel_centres():
    values = torch.arange(12.0).view(1, 3, 4)
    centres = torch.tensor([[(x + 0.5) / 4, (y + 0.5) / 3] for y in range(3) for x in range(4)])
    torch.testing.assert_close(sample_at(values, centres[None])[0], torch.arange(12.0))


def test_points_gather_where_the_logits_are_uncertain():
    torch.manual_seed(0)
    logits = torch.full((2, 16, 16), 9.0)
    logits[:, :, 8:] = -9.0  # uncertain only along the line x = 0.5
    points = sample_points(logits, 4000)
    assert points.shape == (2, 4000, 2)
    # Between the centres of columns 7 and 8 the interpolated logit is below 9 in size: a sixteenth of the width.
    near = ((points[..., 0] - 0.5).abs() < 1 / 32).float().mean()
    # Of 12000 candidates 750 lie there and all are taken; of the 1000 uniform points a sixteenth.
    assert near.item() == pytest.approx((750 + 62.5) / 4000, abs=0.02)


def test_soft_dice_of_equal_and_disjoint_masks():
    ones, zeros = torch.ones(1, 99), torch.zeros(1, 99)
    torch.testing.assert_close(soft_dice_loss(ones, ones), torch.zeros(1))
    torch.testing.assert_close(soft_dice_loss(ones, zeros), torch.tensor([1 - 1 / 100]))


def test_a_perfect_mask_costs_nothing_and_truth_keeps_its_own_size():
    truth = torch.zeros(64, 48, dtype=torch.bool)
    truth[16:48, 12:36] = True
    sharp = torch.where(F.interpolate(truth[None, None].float(), (256, 256))[0] > 0.5, 99.0, -99.0)
    losses = mask_losses(sharp, [truth], 2000)
    # Points between two pixels of the truth have targets between 0 and 1, where no prediction is perfect.
    assert losses["dice"].item() < 0.05
    wrong = mask_losses(-sharp, [truth], 2000)
    assert wrong["dice"].item() > 0.9
    assert wrong["mask"].item() > 50 * losses["mask"].item()


def test_sums_do_not_depend_on_how_objects_are_grouped():
    torch.manual_seed(0)
    logits, truths = torch.randn(3, 16, 16), list(torch.rand(3, 32, 32) > 0.5)
    torch.manual_seed(1)
    points = sample_points(logits, 128)
    pairs = zip(logits, truths, points, strict=True)
    alone = [
        soft_dice_loss(sample_at(one[None], p[None]).sigmoid(), sample_at(truth[None].float(), p[None]))
        for one, truth, p in pairs
    ]
    torch.manual_seed(1)
    torch.testing.assert_close(mask_losses(logits, truths, 128)["dice"], torch.cat(alone).sum())


# Size of the masks


def thin_vessel(height: int, width: int, column: int) -> Tensor:
    truth = torch.zeros(height, width, dtype=torch.bool)
    truth[:, column] = True
    return truth


@pytest.mark.parametrize("mask_size", MASK_SIZES)
@pytest.mark.parametrize("shape", [(512, 512), (1536, 1100)])
def test_a_vessel_of_one_pixel_keeps_its_mass(mask_size, shape):
    truth = thin_vessel(*shape, column=101)
    side = largest_side(mask_size, torch.zeros(1, 256, 256))
    shrunk = shrink_to(truth, side)
    assert shrunk.shape == tuple(min(length, side) for length in shape)
    assert shrunk.mean().item() == pytest.approx(1 / shape[1], rel=1e-5)
    assert 0 <= shrunk.min() <= shrunk.max() <= 1


def test_nearest_neighbour_loses_that_vessel_and_its_loss():
    truth = thin_vessel(512, 512, column=101)
    nearest = F.interpolate(truth[None, None].float(), (256, 256), mode="nearest")[0]
    assert nearest.sum() == 0
    nothing_found = torch.full((1, 256, 256), -99.0)
    assert mask_losses(nothing_found, [nearest[0]], 5000)["mask"].item() == pytest.approx(0)
    for mask_size in MASK_SIZES:
        torch.manual_seed(0)
        missed = mask_losses(nothing_found, [truth], 200_000, mask_size)
        # 99 times the mean target: 1 / 512, by 2e5 uniform points of variance below 1 / 512 each, so 5 % of itself.
        assert missed["mask"].item() == pytest.approx(99 / 512, rel=0.25), mask_size
        assert missed["dice"].item() > 0.99, mask_size


@pytest.mark.parametrize(("shape", "side"), [((64, 64), 32), ((50, 70), 32), ((33, 20), 32)])
def test_shrinking_is_by_area(shape, side):
    truth = torch.rand(shape) > 0.7
    size = min(shape[1], side), min(shape[0], side)
    expected = cv2.resize(truth.numpy().astype(np.float32), size, interpolation=cv2.INTER_AREA)
    torch.testing.assert_close(shrink_to(truth, side), torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_logits_read_between_their_pixels_are_upsampled_logits():
    logits = torch.randn(1, 16, 16)
    centres = (torch.arange(64) + 0.5) / 64
    points = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).reshape(1, -1, 2)
    read = sample_at(logits, points).reshape(64, 64)
    inner = slice(2, -2)  # beyond the outermost pixel centres the points fade out, as upstream's do
    upsampled = F.interpolate(logits[None], (64, 64), mode="bilinear")[0, 0]
    torch.testing.assert_close(read[inner, inner], upsampled[inner, inner])


# Skeleton recall


def test_soft_recall_by_hand():
    probabilities = torch.tensor([[0.5, 1.0, 0.25, 0.9]])
    assert soft_recall_loss(probabilities, torch.tensor([[1.0, 1, 1, 0]])).item() == pytest.approx(1 - 2.75 / 4)
    assert soft_recall_loss(probabilities, torch.zeros(1, 4)).item() == 0  # nothing to recall


def test_skeleton_recall_of_crisp_masks_counts_pixels():
    truth = thin_vessel(64, 64, 20) | thin_vessel(64, 64, 40)
    found = truth.clone()
    found[:16] = False
    logits = crisp(torch.stack([truth, found, thin_vessel(64, 64, 30)]))
    assert skeleton_recall_loss(logits[:1], [truth]).item() == pytest.approx(0, abs=1e-6)
    assert skeleton_recall_loss(logits[1:2], [truth]).item() == pytest.approx(32 / 129)  # of 128 pixels, and 1
    assert skeleton_recall_loss(logits[2:], [truth]).item() == pytest.approx(128 / 129)
    everything = torch.full((1, 64, 64), 99.0)
    assert skeleton_recall_loss(everything, [truth]).item() == pytest.approx(0, abs=1e-6)  # false positives are free


def test_gradient_of_skeleton_recall_is_on_the_skeleton_alone():
    skeleton = thin_vessel(12, 12, 5)
    logits = torch.randn(1, 12, 12, requires_grad=True)
    skeleton_recall_loss(logits, [skeleton]).backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, -skeleton.float() * p * (1 - p) / 13)


def test_skeleton_recall_sees_every_pixel_of_a_skeleton_larger_than_the_logits():
    skeleton = thin_vessel(48, 80, 11)
    logits = torch.randn(1, 16, 16)
    p = F.interpolate(logits[None], (48, 80), mode="bilinear")[0, 0].sigmoid()
    assert skeleton_recall_loss(logits, [skeleton]).item() == pytest.approx(1 - (p[:, 11].sum().item() + 1) / 49)
    at_logits = skeleton_recall_loss(logits, [skeleton], "logits")  # column 11 is a fifth of column 2
    p = logits.sigmoid()[0, :, 2].sum().item()
    assert at_logits.item() == pytest.approx(1 - (p / 5 + 1) / (16 / 5 + 1))


# Soft clDice


@pytest.mark.parametrize("iterations", [1, 3, 6])
def test_soft_skeleton_of_a_band_is_its_centre_up_to_twice_the_iterations(iterations):
    for width in range(1, 2 * iterations + 3):
        band = torch.zeros(1, 40, 30)
        band[:, 10 : 10 + width] = 1
        expected = torch.zeros_like(band)
        if width <= 2 * iterations:
            expected[:, 10 + (width - 1) // 2 : 10 + width // 2 + 1] = 1
        torch.testing.assert_close(soft_skeleton(band, iterations), expected)


def test_soft_skeleton_of_soft_maps_is_that_of_grey_morphology():
    generator = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(generator.random((24, 18)), 1.0).astype(np.float32)
    eroded, expected = maps, np.zeros_like(maps)
    cross, square = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), bool)
    for _ in range(4):
        inner = ndimage.grey_erosion(eroded, footprint=cross, mode="constant", cval=np.inf)
        opened = ndimage.grey_dilation(inner, footprint=square, mode="constant", cval=-np.inf)
        expected = 1 - (1 - expected) * (1 - np.maximum(eroded - opened, 0))
        eroded = inner
    assert expected.max() > 0.05
    torch.testing.assert_close(soft_skeleton(torch.from_numpy(maps)[None], 4)[0], torch.from_numpy(expected))


def hard_cldice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """clDice as its paper defines it, on (H, W) bool masks."""
    precision = truth[skeletonize(prediction)].mean()
    recall = prediction[skeletonize(truth)].mean()
    return 2 * precision * recall / (precision + recall)


def assert_cldice_agrees(whole: Tensor, part: Tensor, atol: float) -> None:
    """Either may be the truth. The skeleton of the part lies in the whole, which both ways of thinning say."""
    for prediction, truth in ((whole, part), (part, whole)):
        soft = 1 - cldice_loss(crisp(prediction)[None], [truth], 512, 6).item()
        hard = hard_cldice(prediction.numpy(), truth.numpy())
        assert hard < 0.9
        assert soft == pytest.approx(hard, abs=atol)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 12])
def test_soft_cldice_of_a_broken_vessel_is_that_of_skimages_skeletons(width):
    length, gap = 200, 50
    whole = torch.zeros(40, length, dtype=torch.bool)
    whole[10 : 10 + width] = True
    part = whole.clone()
    part[:, 70 : 70 + gap] = False
    # The soft line has the vessel's length, skimage's ends up to half a width before each border; the 1 that is added
    # to both sums counts for one pixel. Both enter a recall whose share in clDice has a slope below 2.
    ends = gap / (length - width) - gap / length
    assert_cldice_agrees(whole, part, atol=2 * (ends + 1 / length))


@pytest.mark.parametrize("width", [1, 3, 6, 10])
def test_soft_cldice_of_a_ring_without_a_quarter_is_that_of_skimages_skeletons(width):
    y, x = np.mgrid[:160, :160] - 79.5
    whole = torch.from_numpy(np.abs(np.hypot(y, x) - 60) <= width / 2)
    part = whole & ~torch.from_numpy((y < 0) & (x < 0))
    # The soft ring is the same in all four quarters. Skimage's may wander by half the width at either cut, and its
    # quarter has then so many pixels more or less of at least 4 x 60 / sqrt(2) x 2; one pixel as above.
    assert_cldice_agrees(whole, part, atol=2 * (width + 1) / (4 * 60 * math.sqrt(2)))


def test_soft_cldice_of_masks_with_known_answers():
    empty, vessel = torch.zeros(1, 32, 32), thin_vessel(32, 32, 9)[None].float()
    elsewhere = thin_vessel(32, 32, 20)[None].float()
    assert soft_cldice_loss(empty, empty, 3).item() == 0
    assert soft_cldice_loss(vessel, vessel, 3).item() == pytest.approx(0, abs=1e-6)
    assert soft_cldice_loss(elsewhere, vessel, 3).item() == pytest.approx(1 - 1 / 33)  # both shares are 1 / 33
    assert soft_cldice_loss(empty, vessel, 3).item() == pytest.approx(1 - 2 / 34)  # shares 1 and 1 / 33
    half = soft_cldice_loss(0.5 * vessel, vessel, 3).item()  # all of a skeleton of 16, half of one of 32
    assert half == pytest.approx(1 - 2 * (17 / 33) / (1 + 17 / 33))


def test_cldice_sees_a_break_that_dice_hardly_does():
    whole = torch.zeros(64, 64, dtype=torch.bool)
    whole[10:18] = True  # wide
    whole[40] = True  # thin
    part = whole.clone()
    part[40] = False
    dice = soft_dice_loss(part.float().flatten()[None], whole.float().flatten()[None]).item()
    assert cldice_loss(crisp(part)[None], [whole], 64, 6).item() > 3 * dice


# All parts


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    p = torch.rand(2, 7, 6, dtype=torch.float64, requires_grad=True)
    truth = torch.rand(2, 7, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: soft_recall_loss(p.flatten(1), truth.flatten(1)), p)
    assert torch.autograd.gradcheck(lambda p: soft_dice_loss(p.flatten(1), truth.flatten(1)), p)
    assert torch.autograd.gradcheck(lambda p: soft_skeleton(p, 3), p)
    assert torch.autograd.gradcheck(lambda p: soft_cldice_loss(p, truth, 3), p)


def random_objects() -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Three objects of different sizes, the last with an empty mask."""
    torch.manual_seed(0)
    truths = [torch.rand(48, 80) > 0.5, torch.rand(20, 24) > 0.5, torch.zeros(64, 64, dtype=torch.bool)]
    return torch.randn(3, 32, 32), truths, [truth & (torch.rand(truth.shape) > 0.5) for truth in truths]


@pytest.mark.parametrize("mask_size", MASK_SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_part_is_finite_in_value_and_gradient(mask_size, dtype):
    logits, truths, skeletons = random_objects()
    logits = logits.to(dtype).requires_grad_()
    config = ALL_PARTS.model_copy(update={"mask_size": mask_size})
    for name, value in object_losses(logits, truths, skeletons, config).items():
        assert value.dtype == torch.float32
        assert 0 < value.item() < 10, name
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        assert gradient.isfinite().all(), name
        assert gradient[:2].any(), name


def test_parts_that_draw_no_points_are_sums_of_those_of_single_objects():
    logits, truths, skeletons = random_objects()
    together = object_losses(logits, truths, skeletons, ALL_PARTS)
    alone = [object_losses(logits[n, None], [truths[n]], [skeletons[n]], ALL_PARTS) for n in range(3)]
    for name in OBJECT_LOSSES.keys() - {"mask", "dice"}:
        torch.testing.assert_close(together[name], sum(parts[name] for parts in alone))


def test_neighbours_of_one_size_are_taken_together():
    sizes = [(4, 4)] * 9 + [(4, 6)] + [(4, 4)] * 2
    maps = [torch.full(size, float(number)) for number, size in enumerate(sizes)]
    found = list(of_one_size(maps))
    assert [(where.start, where.stop) for where, _ in found] == [(0, 8), (8, 9), (9, 10), (10, 12)]
    for where, same in found:
        assert same.equal(torch.stack(maps[where]))


def test_the_config_reaches_every_part():
    logits, truths, skeletons = random_objects()
    config = ALL_PARTS.model_copy(update={"mask_size": "logits", "cldice_size": 40, "cldice_iterations": 1})
    torch.manual_seed(1)
    parts = object_losses(logits, truths, skeletons, config)
    torch.manual_seed(1)
    expected = mask_losses(logits, truths, config.num_points, "logits")
    expected["skeleton_recall"] = skeleton_recall_loss(logits, skeletons, "logits")
    expected["cldice"] = cldice_loss(logits, truths, 40, 1)
    torch.testing.assert_close({name: parts[name] for name in expected}, expected, rtol=0, atol=0)
    torch.manual_seed(1)
    others = object_losses(logits, truths, truths, ALL_PARTS)
    assert all(abs(others[name] - parts[name]) > 1e-3 for name in expected)


@pytest.mark.parametrize("mask_size", MASK_SIZES)
def test_logits_of_half_precision_lose_nothing_more(mask_size):
    logits, truths, skeletons = random_objects()
    config = ALL_PARTS.model_copy(update={"mask_size": mask_size})
    torch.manual_seed(1)
    of_half = object_losses(logits.bfloat16(), truths, skeletons, config)
    torch.manual_seed(1)
    expected = object_losses(logits.bfloat16().float(), truths, skeletons, config)
    torch.testing.assert_close(of_half, expected, rtol=0, atol=0)


def test_an_empty_mask_costs_what_is_predicted_in_it():
    empty = torch.zeros(64, 64, dtype=torch.bool)
    right = object_losses(crisp(empty)[None], [empty], [empty], ALL_PARTS)
    wrong = object_losses(crisp(thin_vessel(64, 64, 20))[None], [empty], [empty], ALL_PARTS)
    for name in right:
        assert right[name].item() == pytest.approx(0, abs=1e-6), name
    assert wrong["cldice"].item() == pytest.approx(1 - 2 / 66)  # shares 1 / 65 and 1
    assert wrong["mask"].item() > 0.5
    assert wrong["dice"].item() > 0.5
    assert wrong["skeleton_recall"].item() == 0


def test_parts_are_those_that_have_a_weight():
    logits, truths, skeletons = random_objects()
    assert list(LossConfig().weights()) == ["language", "mask", "dice"]
    assert object_losses(logits, truths, None, LossConfig()).keys() == {"mask", "dice"}
    assert ALL_PARTS.weights() == {"language": 1} | {name: WEIGHTS[f"{name}_weight"] for name in OBJECT_LOSSES}
    assert object_losses(logits, truths, skeletons, ALL_PARTS).keys() == ALL_PARTS.weights().keys() - {"language"}


def test_without_objects_the_parts_are_zero_and_reach_the_logits():
    logits = torch.randn(1, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    parts = object_losses(logits, [], [], ALL_PARTS)
    assert parts.keys() == ALL_PARTS.weights().keys() - {"language"}
    sum(parts.values()).backward()
    assert all(value.item() == 0 and value.dtype == torch.float32 for value in parts.values())
    assert logits.grad is not None
    assert not logits.grad.any()


def test_mask_size_is_read_from_a_command_line():
    assert LossConfig.load(["mask_size=512"]).mask_size == 512
    assert LossConfig.load(["mask_size=logits"]).mask_size == "logits"
    with pytest.raises(UserError, match=r"mask_size: .*'truth', 'logits', 512 or 1024"):
        LossConfig.load(["mask_size=256"])


@pytest.mark.parametrize("mask_size", MASK_SIZES)
def test_no_part_sees_what_is_ignored(mask_size):
    """Neither the truth there nor the logits: those far inside have no gradient, the others have."""
    logits, truths, skeletons = random_objects()
    config = ALL_PARTS.model_copy(update={"mask_size": mask_size})
    ignored = [torch.zeros_like(truth) for truth in truths]
    for each in ignored:
        each[:, each.shape[1] // 2 :] = True

    def losses_and_gradients(truths, skeletons):
        torch.manual_seed(0)
        leaf = logits.clone().requires_grad_()
        parts = object_losses(leaf, truths, skeletons, config, ignored)
        return parts, {name: torch.autograd.grad(p, leaf, retain_graph=True)[0] for name, p in parts.items()}

    parts, gradients = losses_and_gradients(truths, skeletons)
    spoiled = [[one ^ each for one, each in zip(maps, ignored, strict=True)] for maps in (truths, skeletons)]
    for name, value in losses_and_gradients(*spoiled)[0].items():
        assert value.item() == pytest.approx(parts[name].item()), name
    side = logits.shape[-1]
    for name, gradient in gradients.items():
        assert gradient[..., side // 2 + side // 8 :].abs().max() < 1e-6 * gradient.abs().max(), name
        assert gradient[..., : side // 2].any(), name


def test_where_nothing_is_ignored_the_losses_are_the_same():
    logits, truths, skeletons = random_objects()
    ignored = [torch.zeros_like(truth) for truth in truths]
    found = []
    for each in (None, ignored):
        torch.manual_seed(0)
        found.append(object_losses(logits, truths, skeletons, ALL_PARTS, each))
    torch.testing.assert_close(found[0], found[1])


def test_a_mask_weighs_as_much_however_much_of_it_is_ignored():
    """Logits of 0 cost log 2 at each point that counts."""
    ignored = torch.zeros(64, 64, dtype=torch.bool)
    ignored[:, 16:] = True
    found = object_losses(
        torch.zeros(1, 16, 16), [torch.zeros(64, 64, dtype=torch.bool)], None, LossConfig(), [ignored]
    )
    assert found["mask"].item() == pytest.approx(math.log(2), rel=1e-5)
