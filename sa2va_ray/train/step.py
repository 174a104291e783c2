"""One optimizer step over a global batch.

Loss parts are summed where they arise and divided by the counts of the whole global batch (tokens, masks), so the
result is the same however the batch is cut over ranks and micro steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sa2va_ray.data.batch import Batch
from sa2va_ray.train.losses import LossConfig, language_loss, mask_losses

_IGNORED = -100


@dataclass(frozen=True)
class StepResult:
    """Loss parts of the global batch (means over its tokens or masks), and what it held, over all ranks."""

    losses: dict[str, float]
    num_samples: int
    num_tokens: int
    grad_norm: float


def train_step(
    engine, micro_batches: Sequence[Batch | None], filler: Batch, config: LossConfig, learning_rate: float
) -> StepResult:
    """Forward and backward over this rank's micro batches, then one update.

    Args:
        micro_batches: as many as on every other rank; None where this rank has no sample left.
        filler: run in place of a None, with weight 0: ZeRO-3 gathers weights on all ranks together, so a rank that
            sat a micro step out would hang the others.
    """
    counts = _summed_over_ranks(engine, [sum(column) for column in zip(*map(_counts, micro_batches), strict=True)])
    num_samples, num_tokens, num_masks = (int(count) for count in counts)
    totals: dict[str, float] = {}
    for number, batch in enumerate(micro_batches):
        engine.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
        parts = forward_losses(engine, batch or filler, config)
        parts = {
            "loss_language": parts["language"] / max(num_tokens, 1),
            "loss_mask": config.mask_weight * parts["mask"] / max(num_masks, 1),
            "loss_dice": config.dice_weight * parts["dice"] / max(num_masks, 1),
        }
        weight = 1.0 if batch else 0.0
        loss = weight * (parts["loss_language"] + parts["loss_mask"] + parts["loss_dice"])
        engine.backward(loss * dist.get_world_size())  # DeepSpeed takes the mean over ranks
        for name, value in parts.items():
            totals[name] = totals.get(name, 0.0) + weight * value.item()
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    engine.step()
    losses = dict(zip(totals, _summed_over_ranks(engine, list(totals.values())), strict=True))
    losses["loss"] = sum(losses.values())
    return StepResult(losses, num_samples, num_tokens, float(engine.get_global_grad_norm()))


def forward_losses(engine, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
    """Sums of the loss parts of one micro batch: `language` over its tokens, `mask` and `dice` over its masks.

    Raises:
        ValueError: the number of [SEG] tokens differs from the number of masks.
    """
    batch = batch.to(engine.device)
    targets = batch.labels[:, 1:]
    supervised = targets != _IGNORED
    logits_mask = torch.zeros_like(batch.attention_mask)
    logits_mask[:, :-1] = supervised
    output = engine(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=batch.pixel_values,
        grounding_pixel_values=batch.grounding_pixel_values,
        logits_mask=logits_mask,
    )
    truths = [mask for masks in batch.masks for mask in masks]
    if output.num_objects != len(truths):
        raise ValueError(
            f"{output.num_objects} [SEG] tokens stand against {len(truths)} masks in samples {batch.sample_ids}. "
            "Each object of a sample must have one [SEG] in its answer."
        )
    if not truths:
        nothing = 0.0 * output.mask_logits.sum()  # keeps SAM 2 in the graph, for the sake of the other ranks
        return {"language": language_loss(output.logits, targets[supervised]), "mask": nothing, "dice": nothing}
    return {
        "language": language_loss(output.logits, targets[supervised]),
        **mask_losses(output.mask_logits, truths, config.num_points),
    }


def _counts(batch: Batch | None) -> tuple[int, int, int]:
    """Samples, supervised tokens and masks of a micro batch."""
    if batch is None:
        return 0, 0, 0
    return len(batch), int((batch.labels[:, 1:] != _IGNORED).sum()), sum(len(masks) for masks in batch.masks)


def _summed_over_ranks(engine, values: Sequence[float]) -> list[float]:
    summed = torch.tensor(values, dtype=torch.float64, device=engine.device)
    dist.all_reduce(summed)
    return summed.tolist()
