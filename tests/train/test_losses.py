"""Losses on cases with known answers."""

import math

import pytest
import torch

from sa2va_ray.train.losses import language_loss, mask_losses, sample_at, sample_points, soft_dice_loss


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
    sharp = torch.where(torch.nn.functional.interpolate(truth[None, None].float(), (256, 256))[0] > 0.5, 99.0, -99.0)
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
