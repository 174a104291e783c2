"""What the warnings of `health` say: the numbers, the likely cause, what to do."""

import statistics
from collections.abc import Collection, Mapping, Sequence


def no_gradient(groups: Collection[str], num_steps: int) -> str:
    return (
        f"{', '.join(sorted(groups))}: the gradient was zero in each of the last {num_steps} steps, so nothing is "
        "learned there. Likely a path without gradients (no_grad, detach, a frozen part in between), or a loss whose "
        "weight is 0 (loss.mask_weight, loss.dice_weight). Mend it, or do not train that part (model.trainable)."
    )


def not_moved(group: str, num_steps: int) -> str:
    return (
        f"{group}: no weight has changed in {num_steps} steps. Its gradient does not reach the optimizer, or optim.lr "
        "is too low for float32. Look at the learning rate in the log; if it is not 0, stop the run."
    )


def no_masks(num_steps: int) -> str:
    return (
        f"The mask losses were 0 in each of the last {num_steps} steps, so nothing is learned about masks. Are there "
        "objects in the data set's report, with masks that are not empty? Are loss.mask_weight and loss.dice_weight 0?"
    )


def no_seg(seg_share: float, is_silent: bool) -> str:
    """`is_silent`: as `models.checkpoint` says it."""
    kept = (
        " The scores count the images without the object as right, and such a checkpoint comes last in best_metric "
        "whatever they are."
    )
    return (
        f"[SEG] was produced for {seg_share:.0%} of the validation images; without it there is no mask. Early in a run "
        "this passes. If it stays: does train/loss_language fall, are the rows of [SEG] trained "
        "(model.trainable.embeddings), do the prompts of validation read like those of training? More steps help, or a "
        f"higher optim.lr.{kept if is_silent else ''}"
    )


def no_overlap() -> str:
    return (
        "No validation mask has one right pixel: val/dice is 0, though [SEG] was produced. Look at the validation "
        "pictures on the run's page: are the masks empty, or elsewhere? Empty ones are usual early in a run, since all "
        "probabilities of thin vessels are below 0.5 at first. If it stays: does train/loss_dice fall? More steps help "
        "(repeats, num_epochs), or a higher optim.lr. If masks lie elsewhere, look at the pictures of jobs.preview."
    )


def overfitting(dices: Sequence[float], losses: Sequence[float]) -> str:
    return (
        f"Validation falls while training improves: val/dice {_arrow(dices)}, mean training loss {_arrow(losses)}. The "
        "model learns the training patients by heart. The best checkpoint is kept (keep_best): stop here and take it. "
        "For the next run: fewer repeats or epochs, more augmentation (pipeline.augment), a lower "
        "model.trainable.lora_rank, or more patients."
    )


def loss_stays(
    step: int, before: Sequence[Mapping[str, float]], now: Sequence[Mapping[str, float]], learning_rate: float
) -> str:
    """`before`, `now`: losses of the run's first steps, and of those up to `step`."""
    parts = ", ".join(f"{name} {_arrow([_mean(before, name), _mean(now, name)])}" for name in before[0])
    return (
        f"The loss is not lower than at the start. Means of the steps 1 to {len(before)} and {step - len(now) + 1} to "
        f"{step}: {parts}. What to check, in this order: 1. the pictures of jobs.preview: do the masks lie on the "
        "vessels? 2. the warnings above: does every trained group have a gradient? 3. if loss_language stays, [SEG] is "
        "not learned: are its rows trained (model.trainable.embeddings)? 4. if only the mask losses stay: is the mask "
        "decoder trained, and does loss.mask_size leave thin vessels their pixels? 5. the learning rate, at most "
        f"{learning_rate:g} here: try three times as much, or a third of it where the loss jumps up and down."
    )


def _mean(window: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.fmean(each[name] for each in window)


def _arrow(values: Sequence[float]) -> str:
    return " -> ".join(f"{value:.4g}" for value in values)
