"""The checks on a model of 8-bit weights against the full one that it was made from."""

import numpy as np

from sa2va_ray.export.checks.checklist import Check
from sa2va_ray.export.checks.probe import ProbeAnswers, mask_iou, probe_images

MIN_IOU = 0.995


def agreement(quantised: ProbeAnswers, full: ProbeAnswers) -> dict[str, float]:
    """Of the drawn images: the smallest IoU of masks, and the largest error of logits, as a share of their norm."""
    names = [f"logits_{index}" for index in range(len(probe_images()))]
    pairs = [(quantised[name], full[name]) for name in names]
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return {"iou": 0.0, "logits_error": 1.0}
    return {
        "iou": min(mask_iou(ours, theirs) for ours, theirs in pairs),
        "logits_error": max(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs),
    }


def check_against_full(quantised: ProbeAnswers, full: ProbeAnswers) -> list[Check]:
    """That it draws and says what the full model does."""
    if not quantised:
        return [Check("masks and text are the full model's", False, "the quantised model did not answer")]
    found = agreement(quantised, full)
    detail = f"IoU {found['iou']:.5f}, at least {MIN_IOU} is asked; error of the logits {found['logits_error']:.2%}"
    texts = []
    for index in range(len(probe_images())):
        text, expected = str(quantised[f"text_{index}"]), str(full[f"text_{index}"])
        texts.append(
            Check(
                f"text on image {index}",
                text == expected,
                "same" if text == expected else f"{text!r}, not {expected!r}",
            )
        )
    return [Check("masks of the full model", found["iou"] >= MIN_IOU, detail), *texts]
