"""Validation between two steps: every validation sample once, shared by all ranks, with the predictor itself.

Training goes on afterwards as if there had been none.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.metrics import VALIDATION_METRICS
from sa2va_ray.metrics.patients import intervals, over_patients, per_image, per_patient
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.telemetry import Progress
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.validation.passes import compute_losses, own_indices, score_predictions

_MOST_PHRASES = 12  # that have a curve of their own


@dataclass(frozen=True)
class ValidationResult:
    """The result of a validation, the same on all ranks.

    Attributes:
        metrics: `val/dice`, `val/iou`, `val/precision`, `val/recall`, `val/cldice`: the mean over patients of the mean
            over a patient's images, and where there are two patients or more its 95 % interval as `val/dice_low`,
            `val/dice_high` and so on; `val/seg_share`, the mean over images of the share of answers with a [SEG], of
            what is on the image; `val/false_alarm_share`, that of answers with a mask about what is not, where the
            split has such images; where it has several phrases, `val/dice_of/PHRASE`, of the most frequent ones;
            `val/loss_language`, `val/loss_mask` and so on, weighted as in training, and `val/loss`, their sum.
        patients: of each patient, by pseudonym, `num_images` and the means of `VALIDATION_METRICS`.
        pictures: of the first samples by pseudonym: the pseudonym, and `answer_panels` of the sample, RGB uint8.
    """

    metrics: dict[str, float]
    patients: dict[str, dict[str, float]]
    pictures: dict[str, np.ndarray]


def validate(
    engine, processor: Sa2VAProcessor, config: TrainConfig, data_sha256: str | None = None
) -> ValidationResult:
    """Measures the model as it stands. All ranks call it at the same place.

    An answer without [SEG] counts as an empty mask; an image with several objects counts by the mean over them.

    Args:
        engine: DeepSpeed's; its modes and the random numbers of the process are left as they were.
        data_sha256: of the data set that is meant; by default whichever is there.

    Raises:
        RunStoppedError: validation samples that cannot be decoded; it names them.
        UserError: the data set has no validation samples, or was written anew.
    """
    samples = SampleIndex(config.data_uri, "val", data_sha256)
    with _paused(engine), _counted(samples) as count:
        # Losses come first: a whole forward pass shows ZeRO-3 which weights modules take from one another.
        losses = compute_losses(engine, processor, samples, config, count)
        images, pictures = score_predictions(engine, processor, samples, config, count)
    assert len(images) == len(samples), f"{len(images)} of {len(samples)} validation samples were measured"
    patients = per_patient(images, VALIDATION_METRICS)
    metrics = _summarize(patients) | _answered(images) | _of_phrases(images)
    metrics |= {f"val/loss_{name}": value for name, value in losses.items()} | {"val/loss": sum(losses.values())}
    return ValidationResult(metrics, patients, pictures)


@contextmanager
def _paused(engine) -> Iterator[None]:
    """Evaluates without gradients; restores the modes of all modules and the state of the random numbers afterwards."""
    modes = [(module, module.training) for module in engine.modules()]
    engine.eval()
    try:
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _counted(samples: SampleIndex) -> Iterator[Callable[[], None]]:
    """A function that counts one of this rank's samples. Of rank 0, which has as many as any, the two passes over them
    are in the log."""
    if dist.get_rank() == 0:
        with Progress("validate", 2 * len(own_indices(samples))) as progress:
            yield progress.step
    else:
        yield lambda: None


def _answered(images: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means over images of how questions were answered, each over the images that it can be told of."""
    shares = {}
    for name in ("seg_share", "false_alarm_share"):
        if known := [image for image in images if image[name] is not None]:
            shares[f"val/{name}"] = per_image(known, [name])[name]
    return shares


def _of_phrases(images: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The Dice of each phrase where there are several, of the most frequent ones: the mean over patients."""
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for image in images:
        for phrase, dice in image["by_phrase"].items():
            rows[phrase].append({**image, "dice": dice})
    if len(rows) < 2:
        return {}
    frequent = sorted(rows, key=lambda phrase: (-len(rows[phrase]), phrase))[:_MOST_PHRASES]
    names = _curve_names(sorted(rows))
    return {
        f"val/dice_of/{names[phrase]}": over_patients(per_patient(rows[phrase], ["dice"]), ["dice"])["dice"]
        for phrase in sorted(frequent)
    }


def _curve_names(phrases: Sequence[str]) -> dict[str, str]:
    """As MLflow and Prometheus take them. A phrase of other than Latin letters, or of none, and one whose name another
    has, is told by its place among all."""
    names = {phrase: re.sub(r"[^A-Za-z0-9]+", "_", phrase).strip("_") for phrase in phrases}
    counts = Counter(names.values())
    clear = {phrase for phrase, name in names.items() if phrase.isascii() and name and counts[name] == 1}
    by_place = {phrase: f"phrase_{place}" for place, phrase in enumerate(phrases, 1)}
    while taken := {by_place[phrase] for phrase in phrases if phrase not in clear} & {names[each] for each in clear}:
        clear = {phrase for phrase in clear if names[phrase] not in taken}
    return {phrase: names[phrase] if phrase in clear else by_place[phrase] for phrase in phrases}


def _summarize(patients: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    metrics = {f"val/{name}": value for name, value in over_patients(patients, VALIDATION_METRICS).items()}
    for name, interval in intervals(patients, VALIDATION_METRICS).items():
        if interval:
            metrics[f"val/{name}_low"], metrics[f"val/{name}_high"] = interval
    return metrics
