"""Fits a vessel filter on the training patients: polarity, probabilities and threshold.

Each image is filtered once, on the cluster, and counted: how many pixels of vessel and of background fall into each
small interval of the response. All that is fitted follows from these counts.

Shapes: I images, P polarities, R intervals of the response.
"""

import math
from functools import partial
from typing import Any

import cv2
import numpy as np
import ray
from scipy.optimize import isotonic_regression

from sa2va_ray.baselines.config import BaselineConfig
from sa2va_ray.baselines.fitted import FittedBaseline
from sa2va_ray.cluster.streams import stream_rows
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import decode_image, ignored_mask, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.models.baselines.config import FilterConfig
from sa2va_ray.models.baselines.vessel_filter import POLARITIES, FittedFilter, Polarity, filter_response
from sa2va_ray.predict.baseline_predictors import CONFIG_FILE
from sa2va_ray.telemetry import LOGGER, Progress

# Images are standardised before: a response of 100 would be a vessel a hundred standard deviations high, one of 1e-4
# is far below the noise. An interval is 3 % wide.
_EDGES = np.geomspace(1e-4, 100, 451)
_SAMPLES_PER_TASK = 8


def fit_filter(config: BaselineConfig) -> FittedBaseline:
    """Fits on all samples of the training split.

    Raises:
        UserError: no training samples, or the filter's response tells nothing of where vessels are.
    """
    chosen = config.vessel_filter
    polarities = POLARITIES if chosen.polarity == "auto" else (chosen.polarity,)
    filter_config = FilterConfig(method=chosen.method, widths_px=chosen.widths_px)
    counts = _count_all(config.data_uri, filter_config, polarities)
    candidates = [fit_steps(counts[:, i], filter_config, polarity) for i, polarity in enumerate(polarities)]
    found = [candidate for candidate in candidates if candidate]
    if not found:
        raise UserError(
            f"The response of the filter '{chosen.method}' to {' or '.join(polarities)} vessels is not larger where "
            f"vessels are, on {len(counts)} training images. Choose another vessel_filter.polarity, method or "
            "widths_px."
        )
    for fitted, _, dice in found:
        LOGGER.info("%s vessels: Dice %.4f on the training patients", fitted.polarity, dice)
    fitted, threshold, dice = max(found, key=lambda candidate: candidate[2])
    return FittedBaseline({CONFIG_FILE: (fitted.model_dump_json(indent=2) + "\n").encode()}, threshold, {"dice": dice})


def fit_steps(counts: np.ndarray, config: FilterConfig, polarity: Polarity) -> tuple[FittedFilter, float, float] | None:
    """The filter with its probabilities, the best threshold, and the Dice that it has, as a mean over images. None
    where the share of vessel does not rise with the response.

    Probabilities are the share of vessel among the pixels of a response, made to rise with it (isotonic regression).
    Two neighbouring levels have nothing between them, so the threshold is half way.

    Args:
        counts: (I, 2, R) int64, pixels of background and of vessel.
    """
    pixels, vessel = counts.sum(axis=(0, 1)), counts[:, 1].sum(axis=0)
    used = np.flatnonzero(pixels)
    shares = isotonic_regression(vessel[used] / pixels[used], weights=pixels[used]).x
    levels, starts = np.unique(shares, return_index=True)
    if len(levels) == 1:
        return None
    first = used[starts[1:]]
    dice = _dice_from(counts)[:, first].mean(axis=0)
    best = int(dice.argmax())
    fitted = FittedFilter(filter=config, polarity=polarity, cuts=_EDGES[first - 1].tolist(), levels=levels.tolist())
    return fitted, float(levels[best : best + 2].mean()), float(dice[best])


def _dice_from(counts: np.ndarray) -> np.ndarray:
    """(I, 2, R) -> (I, R): Dice of each image, where all from each interval on is taken for vessel; 1 where neither
    image nor prediction has any."""
    above = counts[..., ::-1].cumsum(axis=-1)[..., ::-1]
    hits, predicted, true = above[:, 1], above.sum(axis=1), counts[:, 1].sum(axis=-1, keepdims=True)
    total = predicted + true
    return np.where(total == 0, 1.0, 2 * hits / np.maximum(total, 1))


def _count_all(data_uri: str, config: FilterConfig, polarities: tuple[Polarity, ...]) -> np.ndarray:
    """(I, P, 2, R) int64."""
    samples = SampleIndex(data_uri, "train")
    total = len(samples)
    # Not `ray.data.read_parquet`, which takes paths for web addresses: `prep #2%20` has no files there.
    # Not `ray.data.range`, whose tasks want a whole CPU.
    indices = ray.data.from_items(
        [{"id": number} for number in range(total)], override_num_blocks=math.ceil(total / _SAMPLES_PER_TASK)
    )
    counts: list[np.ndarray] = []
    counted = indices.map_batches(
        partial(_count_batch, data_uri, samples.data_sha256, config, polarities), batch_size=None
    )
    with Progress("filter", total) as progress:
        for row in stream_rows(counted):
            counts.append(row["counts"])
            progress.at(len(counts))
    return np.stack(counts)


def _count_batch(
    data_uri: str,
    data_sha256: str,
    config: FilterConfig,
    polarities: tuple[Polarity, ...],
    batch: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """`id`, numbers of I samples -> `counts` (I, P, 2, R) int64."""
    cv2.setNumThreads(1)  # a task has one core
    samples = SampleIndex(data_uri, "train", data_sha256).read(batch["id"])
    return {"counts": np.stack([_count(config, polarities, sample) for sample in samples])}


def _count(config: FilterConfig, polarities: tuple[Polarity, ...], sample: dict[str, Any]) -> np.ndarray:
    """One sample -> (P, 2, R) int64."""
    image, vessel, ignored = decode_image(sample), np.any(object_masks(sample), axis=0), ignored_mask(sample)
    known = np.ones_like(vessel) if ignored is None else ~ignored
    responses = [filter_response(image, config, polarity) for polarity in polarities]
    counts = [_histogram(response[known], vessel[known]) for response in responses]
    return np.stack(counts)


def _histogram(response: np.ndarray, vessel: np.ndarray) -> np.ndarray:
    """Responses of pixels, and whether they are vessel, of one shape -> (2, R) int64."""
    intervals = np.searchsorted(_EDGES, response, side="right")
    num = len(_EDGES) + 1
    return np.stack([np.bincount(intervals[vessel == truth], minlength=num) for truth in (False, True)])
