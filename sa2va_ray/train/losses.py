"""Losses as sums over what they are about (tokens, masks), so that a step can divide by the counts of its whole global
batch: the loss then does not depend on how the batch was cut over ranks and micro steps.

Shapes: M supervised tokens, V vocabulary, N objects, P points, h side of the mask logits, H W of the true masks.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sa2va_ray.config import Config

_OVERSAMPLE_RATIO = 3.0  # points drawn per point kept, of which the most uncertain stay (PointRend, arXiv 1912.08193)
_IMPORTANCE_RATIO = 0.75  # share of the points that is chosen so; the rest stays uniform


class LossConfig(Config):
    """Weights of the parts; the total is their weighted sum."""

    mask_weight: float = Field(3.0, ge=0)
    """Of the binary cross entropy at the sampled points."""
    dice_weight: float = Field(1.0, ge=0)
    num_points: int = Field(12_544, gt=0)
    """Points per mask at which cross entropy and Dice are taken."""


def language_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropy over M tokens: (M, V), (M,) -> ()."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def mask_losses(mask_logits: Tensor, truths: list[Tensor], num_points: int) -> dict[str, Tensor]:
    """Sums over N objects of the point-sampled binary cross entropy (mean over points) and of 1 - soft Dice.

    Args:
        mask_logits: (N, h, h).
        truths: N true masks (H, W) bool, each at its own size: a thin vessel would vanish if it were shrunk to h.
    """
    points = sample_points(mask_logits.detach(), num_points)
    logits = sample_at(mask_logits, points)
    targets = torch.cat([sample_at(truth[None].float(), p[None]) for truth, p in zip(truths, points, strict=True)])
    return {
        "mask": F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1).sum(),
        "dice": soft_dice_loss(logits.sigmoid(), targets).sum(),
    }


def sample_points(mask_logits: Tensor, num_points: int) -> Tensor:
    """(N, h, h) -> (N, P, 2) points x, y in [0, 1]: the most uncertain of many, and some uniform ones."""
    num_objects = len(mask_logits)
    num_important = int(_IMPORTANCE_RATIO * num_points)
    candidates = torch.rand(num_objects, int(_OVERSAMPLE_RATIO * num_points), 2, device=mask_logits.device)
    uncertainty = -sample_at(mask_logits, candidates).abs()
    chosen = uncertainty.topk(num_important, dim=1).indices.unsqueeze(-1).expand(-1, -1, 2)
    uniform = torch.rand(num_objects, num_points - num_important, 2, device=mask_logits.device)
    return torch.cat([candidates.gather(1, chosen), uniform], dim=1)


def sample_at(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of (N, h, w) maps at (N, P, 2) points x, y in [0, 1] -> (N, P)."""
    grid = 2.0 * points.unsqueeze(2) - 1.0
    return F.grid_sample(maps.unsqueeze(1), grid, align_corners=False).squeeze(3).squeeze(1)


def soft_dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 sum pg + 1) / (sum p + sum g + 1) of each object: (N, P), (N, P) -> (N,)."""
    overlap = 2 * (probabilities * targets).sum(dim=1)
    return 1 - (overlap + 1) / (probabilities.sum(dim=1) + targets.sum(dim=1) + 1)
