"""Where answers meet the truth: one row of metrics and counts per object."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import ray

from sa2va_ray.cluster.streams import stream_rows
from sa2va_ray.data.sample import annotator_masks, ignored_mask
from sa2va_ray.evaluate.inputs import Split
from sa2va_ray.evaluate.passes.answers import NO_SEG, TOO_MANY_MASKS, has_pixels, mask_sha256, to_columns, to_rows
from sa2va_ray.evaluate.passes.people import measure_people
from sa2va_ray.images.consensus import Consensus
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.metrics import (
    METRICS,
    calibration_counts,
    compute_metrics,
    counts_by_width,
    dequantise,
    hd95_in,
    probability_counts,
)
from sa2va_ray.telemetry import Progress

BATCH_SIZE = 4
CPUS_PER_TASK = 0.5  # so that two cores hold an actor, a reader and a task
_Row = dict[str, Any]


def measure_answers(answers: ray.data.Dataset, split: Split, tolerance_px: float) -> list[_Row]:
    """Measures every answer against its truth, on the cluster.

    Returns:
        rows in the order of the samples: ids, `phrase`, `text`, `failure`, `is_negative`, whether there is no such
        object on the image, `is_false_alarm`, whether it was found there; `is_empty`, whether nothing was found;
        `mask_sha256`, `rle` of the prediction, its `METRICS`, and `counts` (2, 256) of `probability_counts`,
        `reliability` (4, 15) of `calibration_counts`, `widths` (3, 7) of `counts_by_width`, `people` (2, `METRICS`)
        of `measure_people`, by `consensus`; `spacing_mm` (2,) and `hd95_mm`, NaN where the spacing is
        not known. About 15 kB each.

    Raises:
        UserError: the model cannot be used.
    """
    measured = answers.map_batches(
        partial(
            measure_batch,
            split=split,
            tolerance_px=tolerance_px,
        ),
        batch_size=BATCH_SIZE,
        num_cpus=CPUS_PER_TASK,
    )
    return sorted(collect(measured, "evaluate", split.num_images), key=lambda row: (row["row"], row["place"]))


def collect(dataset: ray.data.Dataset, what: str, num_images: int) -> Iterator[_Row]:
    """Yields the rows of a data set whose rows are answers, with progress in the log.

    Raises:
        UserError: the model cannot be used.
    """
    seen: set[int] = set()
    with Progress(what, num_images) as progress:
        for row in stream_rows(dataset):
            if row["row"] not in seen:
                seen.add(row["row"])
                progress.at(len(seen))
            yield row


def measure_batch(batch: Mapping[str, np.ndarray], split: Split, tolerance_px: float) -> dict[str, list]:
    """A batch of answers as columns -> their rows of metrics and counts as columns."""
    pairs = with_truths(batch, split)
    return to_columns([_measure_one(answer, truth, tolerance_px, split.consensus) for answer, truth in pairs])


@dataclass(frozen=True)
class Truth:
    """What an answer is held against.

    Attributes:
        mask: (H, W) bool of the object.
        counts: (H, W) bool of the pixels that count; the masks have no others.
        by_annotator: (R, H, W) bool of what each of several annotators drew; R is 0 of one.
        spacing_mm: from row to row, and from column to column; NaN where it is not known.
    """

    mask: np.ndarray
    counts: np.ndarray
    by_annotator: np.ndarray
    spacing_mm: tuple[float, float]

    @classmethod
    def of(cls, sample: _Row, place: int) -> "Truth":
        """Of an object of a sample."""
        asked = sample["objects"][place]
        mask, ignored = rle_to_mask(asked["rle"]), ignored_mask(sample)
        counts = np.ones_like(mask) if ignored is None else ~ignored
        row, column = sample["pixel_spacing_mm"] or (math.nan, math.nan)
        return cls(mask & counts, counts, annotator_masks(sample, asked["phrase"]) & counts, (row, column))


def with_truths(batch: Mapping[str, np.ndarray], split: Split) -> list[tuple[_Row, Truth]]:
    """The answers of a batch, each with the truth of the object that it is about."""
    answers, samples = to_rows(batch), split.open().read(batch["row"])
    return [(answer, Truth.of(sample, answer["place"])) for answer, sample in zip(answers, samples, strict=True)]


def failure_of(answer: _Row, truth: Truth) -> str:
    """Why there is no mask; "" where there is one, and where nothing was found that is not on the image."""
    return "" if answer["failure"] == NO_SEG and not truth.mask.any() else answer["failure"]


def read_levels(answer: _Row, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) uint16 of `quantise`, zeros of `shape` where the answer has no pixels."""
    if not has_pixels(answer):
        return np.zeros(shape, np.uint16)
    levels = cv2.imdecode(np.frombuffer(answer["levels"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert levels is not None  # `AnswerActor` wrote it
    return levels


def _measure_one(answer: _Row, truth: Truth, tolerance_px: float, consensus: Consensus = "majority") -> _Row:
    whole = rle_to_mask(answer["rle"]) if has_pixels(answer) else np.zeros_like(truth.mask)
    mask = whole & truth.counts
    levels, labels = read_levels(answer, whole.shape)[truth.counts], truth.mask[truth.counts]
    measured = compute_metrics(mask, truth.mask, METRICS, tolerance_px)
    kept = ("row", "place", "sample_id", "patient_id", "phrase", "text", "rle")
    return {
        **{name: answer[name] for name in kept},
        "has_mask": not answer["failure"],
        "failure": failure_of(answer, truth),
        "is_negative": not truth.mask.any(),
        "is_false_alarm": bool(mask.any() or answer["failure"] == TOO_MANY_MASKS) and not truth.mask.any(),
        "is_empty": not whole.any(),
        "mask_sha256": mask_sha256(whole),
        **measured,
        "hd95_mm": _hd95_mm(measured["hd95"], mask, truth),
        "spacing_mm": np.array(truth.spacing_mm),
        "counts": probability_counts(levels, labels),
        "reliability": calibration_counts(dequantise(levels), labels),
        "widths": counts_by_width(mask, truth.mask),
        "consensus": consensus,
        "people": measure_people(mask, truth.by_annotator, truth.counts, consensus, tolerance_px),
    }


def _hd95_mm(hd95_px: float, mask: np.ndarray, truth: Truth) -> float:
    row, column = truth.spacing_mm
    is_square = math.isclose(row, column, rel_tol=1e-6) or math.isnan(row)
    return hd95_px * row if is_square else hd95_in(mask, truth.mask, truth.spacing_mm)
