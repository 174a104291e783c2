"""Losses as sums over what they are about (tokens, objects), so that a step can divide by the counts of its whole
global batch: the loss then does not depend on how the batch was cut over ranks and micro steps.

Shapes: M supervised tokens, V vocabulary, N objects, P points, h side of the mask logits, H W of the true masks, which
may differ from object to object.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sa2va_ray.train.config import LossConfig, MaskSize

_OVERSAMPLE_RATIO = 3.0  # points drawn per point kept, of which the most uncertain stay (PointRend, arXiv 1912.08193)
_IMPORTANCE_RATIO = 0.75  # share of the points that is chosen so; the rest stays uniform
_MOST_TOGETHER = 8


@dataclass(frozen=True)
class Objects:
    """What the losses of N objects are computed from.

    Attributes:
        mask_logits: (N, h, h) of any floating type; losses are float32.
        truths: N true masks (H, W) bool.
        skeletons: N widened skeletons (H, W) bool of the true masks; only skeleton recall needs them.
        ignored: N (H, W) bool of the pixels that do not count, where truths and skeletons have none; None: all count.
    """

    mask_logits: Tensor
    truths: list[Tensor]
    skeletons: list[Tensor] | None
    config: LossConfig
    ignored: list[Tensor] | None

    @cached_property
    def point_losses(self) -> dict[str, Tensor]:
        """`mask` and `dice`, which are taken at the same points."""
        config = self.config
        return mask_losses(self.mask_logits, self.truths, config.num_points, config.mask_size, self.ignored)


def _skeleton_recall(objects: Objects) -> Tensor:
    assert objects.skeletons is not None, "the batch has no skeletons: the pipeline was not asked for them"
    return skeleton_recall_loss(objects.mask_logits, objects.skeletons, objects.config.mask_size)


def _cldice(objects: Objects) -> Tensor:
    config = objects.config
    return cldice_loss(
        objects.mask_logits, objects.truths, config.cldice_size, config.cldice_iterations, objects.ignored
    )


OBJECT_LOSSES: dict[str, Callable[[Objects], Tensor]] = {
    "mask": lambda objects: objects.point_losses["mask"],
    "dice": lambda objects: objects.point_losses["dice"],
    "skeleton_recall": _skeleton_recall,
    "cldice": _cldice,
}
"""Losses about masks, by name. A new one is a function, an entry here, and its weight in `LossConfig`."""


def loss_divisor(name: str, num_targets: float, num_masks: float) -> float:
    """What the sum of a part is divided by: supervised tokens for `language`, masks for all others; at least 1."""
    return max(num_masks if name in OBJECT_LOSSES else num_targets, 1.0)


def language_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropy over M tokens: (M, V), (M,) -> ()."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def object_losses(
    mask_logits: Tensor,
    truths: list[Tensor],
    skeletons: list[Tensor] | None,
    config: LossConfig,
    ignored: list[Tensor] | None = None,
) -> dict[str, Tensor]:
    """Sums over N objects of the parts that `config.weights()` names, without `language`. Arguments: see `Objects`;
    truths and skeletons may have pixels that are ignored.

    Where there are no objects the sums are 0, and still depend on `mask_logits`, so that no rank stays away from the
    others' collectives.
    """
    names = [name for name in config.weights() if name in OBJECT_LOSSES]
    if not truths:
        return dict.fromkeys(names, 0.0 * mask_logits.float().sum())
    if ignored:
        truths = [truth & ~each for truth, each in zip(truths, ignored, strict=True)]
        skeletons = skeletons and [skeleton & ~each for skeleton, each in zip(skeletons, ignored, strict=True)]
    objects = Objects(mask_logits, truths, skeletons, config, ignored)
    return {name: OBJECT_LOSSES[name](objects) for name in names}


def mask_losses(
    mask_logits: Tensor,
    truths: list[Tensor],
    num_points: int,
    mask_size: MaskSize = "truth",
    ignored: list[Tensor] | None = None,
) -> dict[str, Tensor]:
    """Sums over N objects of the point-sampled binary cross entropy (mean over points) and of 1 - soft Dice, both over
    the points that count.

    Reading the logits between their pixels is what upsampling them would give: only the truth has a size here.

    Args:
        mask_logits: (N, h, h).
        truths: N true masks (H, W), each of its own size; none of what is ignored.
        ignored: N (H, W), of the truths' sizes; None where all pixels count.
    """
    mask_logits, side = mask_logits.float(), largest_side(mask_size, mask_logits)
    points = sample_points(mask_logits.detach(), num_points)
    logits, targets = sample_at(mask_logits, points), _shrunk_at(points, truths, side)
    cross_entropies = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if ignored is None:
        return {
            "mask": cross_entropies.mean(dim=1).sum(),
            "dice": soft_dice_loss(logits.sigmoid(), targets).sum(),
        }
    # Of each point, the share of its surroundings that counts; beyond the image is what is at its border.
    counts = 1 - _shrunk_at(points, ignored, side, beyond="border")
    return {
        "mask": ((cross_entropies * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)).sum(),
        "dice": soft_dice_loss(logits.sigmoid() * counts, targets).sum(),
    }


def _shrunk_at(points: Tensor, maps: list[Tensor], side: float, beyond: str = "zeros") -> Tensor:
    """N maps (H, W) bool at (N, P, 2) points -> (N, P) float32."""
    return torch.cat([sample_at(shrink_to(same, side), points[where], beyond) for where, same in of_one_size(maps)])


def skeleton_recall_loss(mask_logits: Tensor, skeletons: list[Tensor], mask_size: MaskSize = "truth") -> Tensor:
    """Sum over N objects of the share of the skeleton's pixels that is missed (arXiv 2404.03010): (N, h, h), N
    skeletons (H, W) -> (). It pulls the mask over thin vessels as strongly as over wide ones, and knows nothing of
    false positives: the other parts have to."""
    maps = full_maps(mask_logits, skeletons, largest_side(mask_size, mask_logits))
    return torch.cat([soft_recall_loss(p.flatten(1), skeleton.flatten(1)) for p, skeleton in maps]).sum()


def cldice_loss(
    mask_logits: Tensor, truths: list[Tensor], largest: int, iterations: int, ignored: list[Tensor] | None = None
) -> Tensor:
    """Sum over N objects of 1 - soft clDice on maps of at most `largest` pixels a side: (N, h, h), N masks (H, W) ->
    (). `ignored` as in `mask_losses`."""
    maps = full_maps(mask_logits, truths, largest)
    if ignored:
        pairs = zip(maps, of_one_size(ignored), strict=True)
        maps = ((p * (1 - shrink_to(same, largest)), truth) for (p, truth), (_, same) in pairs)
    return torch.cat([soft_cldice_loss(p, truth, iterations) for p, truth in maps]).sum()


def largest_side(mask_size: MaskSize, mask_logits: Tensor) -> float:
    """What `mask_size` means for these logits, in pixels."""
    if mask_size == "truth":
        return math.inf
    return mask_logits.shape[-1] if mask_size == "logits" else mask_size


def of_one_size(maps: list[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Yields N maps (H, W) in order, neighbours of one size together: their places, and (n, H, W). Each kernel of a GPU
    then works on up to eight; on all, their memory would have no bound."""
    begin = 0
    for _, same in groupby(maps, key=lambda each: each.shape):
        end = begin + len(list(same))
        while begin < end:
            where = slice(begin, min(begin + _MOST_TOGETHER, end))
            yield where, torch.stack(maps[where])
            begin = where.stop


def full_maps(mask_logits: Tensor, truths: list[Tensor], side: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the probabilities and the truths of objects, both in [0, 1], of the truths' size but at most `side`:
    (n, min(H, side), min(W, side)) float32."""
    for where, same in of_one_size(truths):
        targets, logits = shrink_to(same, side), mask_logits[where].float().unsqueeze(1)
        yield F.interpolate(logits, targets.shape[1:], mode="bilinear").squeeze(1).sigmoid(), targets


def shrink_to(truths: Tensor, side: float) -> Tensor:
    """(..., H, W) -> (..., min(H, side), min(W, side)) float32: how much of each pixel's area is true. The mean
    stays."""
    height, width = truths.shape[-2:]
    truths = truths.float()
    if height > side:
        truths = _area_shares(height, int(side), truths.device) @ truths
    if width > side:
        truths = truths @ _area_shares(width, int(side), truths.device).T
    return truths


def _area_shares(length: int, shorter: int, device: torch.device) -> Tensor:
    """(shorter, length): which share of a pixel of the shorter row is in which pixel of the longer one. Unlike the
    windows of `F.interpolate(mode="area")` these do not overlap where the ratio of the lengths is not whole."""
    edges = torch.arange(shorter + 1, device=device) * (length / shorter)
    left = torch.arange(length, device=device)
    overlap = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return overlap.clamp(min=0) * (shorter / length)


def sample_points(mask_logits: Tensor, num_points: int) -> Tensor:
    """(N, h, h) -> (N, P, 2) points x, y in [0, 1]: the most uncertain of many, and some uniform ones."""
    num_objects = len(mask_logits)
    num_important = int(_IMPORTANCE_RATIO * num_points)
    candidates = torch.rand(num_objects, int(_OVERSAMPLE_RATIO * num_points), 2, device=mask_logits.device)
    uncertainty = -sample_at(mask_logits, candidates).abs()
    chosen = uncertainty.topk(num_important, dim=1).indices.unsqueeze(-1).expand(-1, -1, 2)
    uniform = torch.rand(num_objects, num_points - num_important, 2, device=mask_logits.device)
    return torch.cat([candidates.gather(1, chosen), uniform], dim=1)


def sample_at(maps: Tensor, points: Tensor, beyond: str = "zeros") -> Tensor:
    """Bilinear values of (N, h, w) maps at (N, P, 2) points x, y in [0, 1] -> (N, P). `beyond` is the padding mode of
    `F.grid_sample`."""
    grid = 2.0 * points.unsqueeze(2) - 1.0
    return F.grid_sample(maps.unsqueeze(1), grid, padding_mode=beyond, align_corners=False).squeeze(3).squeeze(1)


def soft_dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 sum pg + 1) / (sum p + sum g + 1) of each object: (N, P), (N, P) -> (N,)."""
    overlap = 2 * (probabilities * targets).sum(dim=1)
    return 1 - (overlap + 1) / (probabilities.sum(dim=1) + targets.sum(dim=1) + 1)


def soft_recall_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """1 - (sum pg + 1) / (sum g + 1) of each object, 0 where nothing is to be found: (N, P), (N, P) -> (N,)."""
    return 1 - ((probabilities * targets).sum(dim=1) + 1) / (targets.sum(dim=1) + 1)


def soft_cldice_loss(probabilities: Tensor, targets: Tensor, iterations: int) -> Tensor:
    """1 - the harmonic mean of how much of the prediction's skeleton is in the truth, and of the truth's in the
    prediction (arXiv 2003.07311): (N, H, W), (N, H, W) in [0, 1] -> (N,). 0 where both are empty."""
    true_skeletons = soft_skeleton(targets, iterations).flatten(1)
    missed = soft_recall_loss(probabilities.flatten(1), true_skeletons)
    invented = soft_recall_loss(targets.flatten(1), soft_skeleton(probabilities, iterations).flatten(1))
    precision, recall = 1 - invented, 1 - missed
    return 1 - 2 * precision * recall / (precision + recall)


def soft_skeleton(maps: Tensor, iterations: int) -> Tensor:
    """Ridges of maps in [0, 1], where they are at most 2 * iterations pixels wide: (N, H, W) -> (N, H, W) in [0, 1].

    What is outside the image does not erode: a vessel that leaves it keeps its centre line up to the border.
    """
    skeletons = torch.zeros_like(maps)
    for _ in range(iterations):
        # A round would keep 48 bytes per pixel for the backward pass; computed again there it keeps 8.
        skeletons, maps = checkpoint(_thin, skeletons, maps, use_reentrant=False, preserve_rng_state=False)
    return skeletons


def _thin(skeletons: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Adds to the skeletons what the maps lose by an opening; returns them and the maps without their rim."""
    inverse = -maps
    across = F.max_pool2d(inverse, (3, 1), stride=1, padding=(1, 0))
    along = F.max_pool2d(inverse, (1, 3), stride=1, padding=(0, 1))
    eroded = -torch.maximum(across, along)
    ridges = F.relu(maps - F.max_pool2d(eroded, 3, stride=1, padding=1))
    return skeletons + (1 - skeletons) * ridges, eroded
