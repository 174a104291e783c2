"""One optimizer step over a global batch.

Loss parts are summed where they arise and divided by the counts of the whole global batch (tokens, masks), so the
result is the same however the batch is cut over ranks and micro steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sa2va_ray.data.batch import Batch
from sa2va_ray.models.sa2va.processing_sa2va import normalize_tiles
from sa2va_ray.train.collectives import any_rank, gather_objects, sum_over_ranks
from sa2va_ray.train.config import LossConfig
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.losses import language_loss, loss_divisor, object_losses


@dataclass(frozen=True)
class MicroBatch:
    """Attributes:
    batch: None where this rank has no sample left.
    seed: of the random numbers drawn with it (dropout, points); it depends on the samples and not on the rank.
    """

    batch: Batch | None
    seed: int


@dataclass(frozen=True)
class StepResult:
    """What a step did, over all ranks.

    Attributes:
        losses: weighted parts and their sum `loss`, means over the global batch's tokens or masks.
        num_samples: samples trained on.
        num_skipped: samples of micro steps that were left out because a loss was not finite.
        skipped_ids: those samples whose loss it was.
        num_tokens: tokens of all sequences.
        grad_norm: before clipping.
    """

    losses: dict[str, float]
    num_samples: int
    num_skipped: int
    skipped_ids: list[str]
    num_tokens: int
    grad_norm: float


def train_step(
    engine, micro_batches: Sequence[MicroBatch], filler: Batch, config: LossConfig, learning_rate: float
) -> StepResult:
    """Forward and backward over this rank's micro batches, then one update.

    Args:
        micro_batches: as many as on every other rank.
        filler: run in place of a missing batch, with weight 0: ZeRO-3 gathers weights on all ranks together, so a rank
            that sat a micro step out would hang the others.

    Raises:
        RunStoppedError: the filler's loss or the gradient is not finite: the weights are lost.
    """
    counts = sum_over_ranks(
        engine, [sum(column) for column in zip(*[_counts(each.batch) for each in micro_batches], strict=True)]
    )
    _, _, num_targets, num_masks = counts
    weights = config.weights()
    totals = torch.zeros(len(weights), dtype=torch.float64, device=engine.device)
    skipped: list[_Skipped] = []
    for number, each in enumerate(micro_batches):
        engine.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
        parts, left_out = _forward(engine, each, filler, config)
        skipped += [left_out] if left_out else []
        weight = 1.0 if each.batch and not left_out else 0.0
        scaled = torch.stack(
            [weight * weights[name] * parts[name] / loss_divisor(name, num_targets, num_masks) for name in weights]
        )
        engine.backward(scaled.sum() * dist.get_world_size())  # DeepSpeed averages over ranks
        totals += scaled.detach()
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    engine.step()
    grad_norm = float(engine.get_global_grad_norm())
    if not math.isfinite(grad_norm):
        raise RunStoppedError(
            f"The gradient is not finite (norm {grad_norm}), and the weights are lost with it. The run's last "
            "checkpoint is sound: go on from it with a lower optim.lr, or look at the samples logged before."
        )
    losses = dict(zip(weights, sum_over_ranks(engine, totals), strict=True))
    return _result(engine, losses, counts, skipped, grad_norm)


@dataclass(frozen=True)
class _Skipped:
    batch: Batch | None
    is_bad: bool  # its own loss was not finite, and not only another rank's


def _forward(engine, each: MicroBatch, filler: Batch, config: LossConfig) -> tuple[dict[str, Tensor], _Skipped | None]:
    """Loss parts, and what was left out for them: where a loss is not finite on any rank, all ranks run their filler
    instead. What is not finite would reach every weight through the summed gradient."""
    torch.manual_seed(each.seed)
    parts = forward_losses(engine, each.batch or filler, config)
    is_bad = ~_is_finite(parts)
    if not any_rank(engine, is_bad):
        return parts, None
    parts = forward_losses(engine, filler, config)
    if any_rank(engine, ~_is_finite(parts)):
        raise RunStoppedError(
            "The loss is not finite on any samples: the weights are lost. Lower optim.lr and start again."
        )
    return parts, _Skipped(each.batch, bool(is_bad))


def forward_losses(engine, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
    """Sums of the loss parts of one micro batch, unweighted: `language` over its tokens, the others over its masks.

    Raises:
        ValueError: the number of [SEG] tokens differs from the number of masks.
    """
    supervised = batch.supervised()
    logits_mask = torch.zeros_like(batch.attention_mask)
    logits_mask[:, :-1] = supervised
    moved = batch.to(engine.device)
    output = engine(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=normalize_tiles(moved.pixel_values),
        grounding_pixel_values=moved.grounding_pixel_values,
        logits_mask=logits_mask,
    )
    targets = batch.labels[:, 1:][supervised].to(engine.device, non_blocking=True)
    truths = [mask for masks in moved.masks for mask in masks]
    skeletons = [each for masks in moved.skeletons for each in masks] if moved.skeletons else None
    ignored = _ignored_of_objects(moved)
    if output.num_objects != len(truths):
        raise ValueError(
            f"{output.num_objects} [SEG] tokens stand against {len(truths)} masks in samples {batch.sample_ids}. "
            "Each object of a sample must have one [SEG] in its answer."
        )
    return {
        "language": language_loss(output.logits, targets),
        **object_losses(output.mask_logits, truths, skeletons, config, ignored),
    }


def _ignored_of_objects(batch: Batch) -> list[Tensor] | None:
    """For each object the (H, W) bool of its image that does not count; None where all pixels of the batch do."""
    if not any(map(len, batch.ignored)):
        return None
    return [
        ignored[0] if len(ignored) else torch.zeros_like(mask)
        for masks, ignored in zip(batch.masks, batch.ignored, strict=True)
        for mask in masks
    ]


def _is_finite(parts: dict[str, Tensor]) -> Tensor:
    """() bool, on the parts' device: to look at each would have the CPU wait for a GPU as often."""
    return torch.stack([part.detach() for part in parts.values()]).isfinite().all()


def _result(
    engine, losses: dict[str, float], counts: list[float], skipped: list[_Skipped], grad_norm: float
) -> StepResult:
    num_skipped = int(sum_over_ranks(engine, [sum(len(each.batch) for each in skipped if each.batch)])[0])
    bad = [each.batch for each in skipped if each.batch and each.is_bad]
    own_ids = [sample_id for batch in bad for sample_id in batch.sample_ids]
    skipped_ids = [sample_id for ids in gather_objects(own_ids) for sample_id in ids] if num_skipped else []
    return StepResult(
        losses={f"loss_{name}": value for name, value in losses.items()} | {"loss": sum(losses.values())},
        num_samples=int(counts[0]) - num_skipped,
        num_skipped=num_skipped,
        skipped_ids=skipped_ids,
        num_tokens=int(counts[1]),
        grad_norm=grad_norm,
    )


def _counts(batch: Batch | None) -> tuple[int, int, int, int]:
    """Samples, tokens, supervised tokens and masks of a micro batch."""
    if batch is None:
        return 0, 0, 0, 0
    return len(batch), int(batch.attention_mask.sum()), int(batch.supervised().sum()), batch.num_masks
