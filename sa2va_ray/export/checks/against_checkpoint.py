"""The checks on an exported folder against the checkpoint that it was made from."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_ray.config import UserError
from sa2va_ray.export.checks.checklist import Check
from sa2va_ray.export.checks.child_process import ChildFailed, run_module
from sa2va_ray.export.checks.probe import ProbeAnswers, mask_iou, probe_images, read_answers
from sa2va_ray.models.loading.report import some
from sa2va_ray.models.trained_weights import LocalCheckpoint

MIN_IOU = 0.999
_UNDECIDED = 2**-8  # of a probability of one half: half a step of bfloat16


@dataclass(frozen=True)
class UnmergedResult:
    """What `unmerged.py` has written.

    Attributes:
        changes: what it found of the weights.
        answers: what the checkpoint answers with its adapters in place.
    """

    changes: dict[str, Any]
    answers: ProbeAnswers


def run_unmerged(folder: Path, checkpoint: LocalCheckpoint, on_gpu: bool) -> UnmergedResult:
    """Runs `unmerged.py` on a folder whose files, but not its manifest, are written.

    Args:
        on_gpu: see `child_process.gpu_has_room`.

    Raises:
        UserError: the checkpoint does not load any more.
    """
    with tempfile.TemporaryDirectory() as out:
        job = {
            "folder": str(folder),
            "checkpoint": str(checkpoint.folder),
            "uri": checkpoint.uri,
            "model_config": checkpoint.model_config.model_dump(mode="json"),
            "out": out,
        }
        (Path(out) / "job.json").write_text(json.dumps(job))
        try:
            run_module("sa2va_ray.export.checks.unmerged", str(Path(out) / "job.json"), on_gpu=on_gpu)
        except ChildFailed as error:
            raise UserError(f"The checkpoint {checkpoint.uri} could not be run to be compared with: {error}") from None
        changes = json.loads((Path(out) / "changes.json").read_text())
        return UnmergedResult(changes, read_answers(Path(out)))


def check_weight_changes(changes: Mapping[str, Any]) -> list[Check]:
    """That what was trained has changed, as the checkpoint says, and nothing else."""
    total = {key: sum(row[key] for row in changes["modules"].values()) for key in ("should", "changed", "trained")}
    wrong = changes["wrong"]
    lost = total["trained"] - total["should"]
    note = f"; of {total['trained']} trained ones {lost} moved by less than bfloat16 can tell" if lost else ""
    return [
        Check(
            "tensors that should have changed have",
            total["should"] > 0 and not wrong["unchanged"],
            some(wrong["unchanged"]) or f"{total['changed']} changed{note}"
            if total["should"]
            else "none should: the weights of this checkpoint are those of its base, so nothing was trained",
        ),
        Check("no others have", not wrong["changed_but_frozen"], some(wrong["changed_but_frozen"]) or "none"),
        Check(
            "values are the checkpoint's, rounded once",
            not wrong["not_merged_value"],
            some(wrong["not_merged_value"]) or "all, to 2^-8 of each",
        ),
    ]


def check_answers(exported: ProbeAnswers, unmerged: ProbeAnswers) -> list[Check]:
    """That an exported model draws and says what its un-merged checkpoint does (`unmerged.py` tells which).

    Pixels whose probability is within half a step of bfloat16 of one half are left out, since on a GPU that computes in
    it they could be either, and so is a text behind the token where its model is not decided.
    """
    if not exported:
        return [Check("masks and text are the checkpoint's", False, "the exported model did not answer")]
    ious, rounding, checks = [], [], []
    for index in range(len(probe_images())):
        ours, theirs = exported[f"logits_{index}"], unmerged[f"logits_{index}"]
        decided = np.abs(_probability(theirs) - 0.5) >= _UNDECIDED
        ious.append(mask_iou(ours[decided], theirs[decided]) if ours.shape == theirs.shape else 0.0)
        rounding.append(mask_iou(theirs, unmerged[f"exact_logits_{index}"]))
        text, expected = str(exported[f"text_{index}"]), str(unmerged[f"text_{index}"])
        prefix = str(unmerged[f"decided_{index}"])
        same = text == expected or (prefix != expected and text.startswith(prefix))
        note = "same" if text == expected else f"same where the checkpoint is decided ({len(prefix)} characters)"
        checks.append(Check(f"text on image {index}", same, note if same else f"{text!r}, not {expected!r}"))
    detail = f"IoU {min(ious):.5f}, at least {MIN_IOU} is asked; rounding alone {min(rounding):.5f}"
    return [Check("masks of the un-merged checkpoint", min(ious) >= MIN_IOU, detail), *checks]


def mask_agreement(exported: ProbeAnswers, unmerged: ProbeAnswers) -> dict[str, float]:
    """Smallest IoU of all images' masks: with the un-merged checkpoint as stored, and as it was trained, unrounded."""
    pairs = range(len(probe_images()))
    return {
        "iou_unmerged": min(mask_iou(exported[f"logits_{i}"], unmerged[f"logits_{i}"]) for i in pairs),
        "iou_unrounded": min(mask_iou(exported[f"logits_{i}"], unmerged[f"exact_logits_{i}"]) for i in pairs),
    }


def _probability(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))
