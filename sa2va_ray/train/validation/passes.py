"""Passes over the validation samples that all ranks make together.

Under ZeRO-3 the ranks gather each layer's weights together, so all of them run the same parts of the model in the same
order: a rank that has nothing left runs a filler whose result is thrown away, and ranks decode until the last is done.

What a sample gets does not depend on the rank that has it: its texts and points are drawn with its number as the seed.
(Samples of one forward pass share the seed; with a micro batch of one, the number of ranks changes no bit.)
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from sa2va_ray.data.augment import AugmentConfig
from sa2va_ray.data.batch import collate
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.data.pipeline import Undecodable, preprocess
from sa2va_ray.data.sample import decode_image, ignored_mask, object_masks, phrase_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.metrics import VALIDATION_METRICS, compute_metrics
from sa2va_ray.pictures.classes import answer_panels, phrase_colours
from sa2va_ray.predict.predictor import Prediction, Query, Sa2VAPredictor
from sa2va_ray.train.collectives import any_rank, gather_objects
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.losses import loss_divisor
from sa2va_ray.train.step import forward_losses

_READ_AHEAD = 8  # samples that are asked for at once
_Item = TypeVar("_Item")
_Row = dict[str, Any]


def compute_losses(
    engine, processor, samples: SampleIndex, config: TrainConfig, count: Callable[[], None]
) -> dict[str, float]:
    """Teacher-forced loss parts, as training weighs them: means over the tokens or masks of all samples, by the name of
    the part. Samples are not augmented.

    Args:
        count: called after each of this rank's samples.

    Raises:
        RunStoppedError: samples that cannot be decoded; it names them.
    """
    pipeline = config.pipeline.model_copy(update={"augment": AugmentConfig.off()})
    undecodable: list[str] = []

    def prepare(index: int, sample: _Row) -> _Row | None:
        try:
            return preprocess(sample, pipeline, processor, np.random.default_rng(index))
        except Undecodable as error:
            undecodable.append(f"{sample['sample_id']} ({error.error_class})")
            return None

    filler = prepare(0, samples[0])
    _check_decoded(undecodable)
    assert filler, "it would have been refused"
    sums: list[tuple[int, dict[str, float]]] = []
    for chunk in _in_lockstep(engine, _own_samples(samples, count)):
        rows = [row for each in chunk if (row := prepare(*each))]
        batch, seed = collate(rows or [filler]), chunk[0][0] if chunk else 0
        torch.manual_seed(seed)
        parts = forward_losses(engine, batch, config.loss)
        if rows:
            counts = {"num_targets": int(batch.supervised().sum()), "num_masks": batch.num_masks}
            sums.append((seed, {name: part.item() for name, part in parts.items()} | counts))
    _check_decoded(undecodable)
    totals = _totals([of_batch for _, of_batch in sorted(_gathered(sums), key=lambda each: each[0])])
    return {
        name: weight * totals[name] / loss_divisor(name, totals["num_targets"], totals["num_masks"])
        for name, weight in config.loss.weights().items()
    }


def score_predictions(
    engine, processor, samples: SampleIndex, config: TrainConfig, count: Callable[[], None]
) -> tuple[list[_Row], dict[str, np.ndarray]]:
    """Predicts every sample and scores the masks against the truth.

    Args:
        count: called after each of this rank's samples.

    Returns:
        for each sample, in order: `sample_id`, `patient_id`, the means over its objects of `VALIDATION_METRICS`,
        `seg_share`, how many of the objects that are on the image were answered with a [SEG], and `false_alarm_share`,
        how many of those that are not were answered with a mask, each None where there are no such objects;
        `by_phrase`, the Dice of each of its phrases; and the pictures of the first `num_drawn` samples by pseudonym.
        The same on all ranks.
    """
    images: list[_Row] = []
    pictures: dict[str, np.ndarray] = {}
    colours = phrase_colours(samples.phrases)
    found = _predictions(engine, processor, samples, config, count)
    for index, group in groupby(found, key=lambda each: each[0]):
        _, same_sample, predictions = zip(*group, strict=True)
        sample, truths, ignored = same_sample[0], object_masks(same_sample[0]), ignored_mask(same_sample[0])
        ids = {name: sample[name] for name in ("sample_id", "patient_id")}
        phrases, quality = [each["phrase"] for each in sample["objects"]], _quality(predictions, truths, ignored)
        by_phrase = dict(zip(phrases, quality.pop("dices"), strict=True))
        images.append({"index": index, **ids, **quality, "by_phrase": by_phrase})
        if sample["sample_id"] in _drawn([*pictures, sample["sample_id"]], config):
            drawn = dict(zip(phrases, (prediction.union() for prediction in predictions), strict=True))
            picture = answer_panels(np.asarray(decode_image(sample)), phrase_masks(sample), drawn, colours, ignored)
            pictures = {**pictures, sample["sample_id"]: picture}
            pictures = {sample_id: pictures[sample_id] for sample_id in _drawn(pictures, config)}
    pictures = dict(_gathered(list(pictures.items())))
    return (
        sorted(_gathered(images), key=lambda image: image["index"]),
        {sample_id: pictures[sample_id] for sample_id in _drawn(pictures, config)},
    )


def _predictions(
    engine, processor, samples: SampleIndex, config: TrainConfig, count: Callable[[], None]
) -> Iterator[tuple[int, _Row, Prediction]]:
    """Yields (number, sample, prediction) for each object of this rank's samples."""
    predictor = Sa2VAPredictor(engine.module, processor)

    def ask(sample: _Row, phrase: str) -> Query:
        return Query(decode_image(sample), evaluation_prompt(phrase), threshold=config.validation.threshold)

    first = samples[0]
    filler = ask(first, first["objects"][0]["phrase"])
    own = _own_samples(samples, count)
    asked = ((index, sample, each["phrase"]) for index, sample in own for each in sample["objects"])
    for chunk in _in_lockstep(engine, asked):
        queries = [ask(sample, phrase) for _, sample, phrase in chunk]
        queries += [filler] * (engine.train_micro_batch_size_per_gpu() - len(queries))
        predictions = predictor.predict(queries, config.validation.max_new_tokens, partial(any_rank, engine))
        for (index, sample, _), prediction in zip(chunk, predictions, strict=False):  # the rest are fillers
            yield index, sample, prediction


def _quality(predictions: Sequence[Prediction], truths: np.ndarray, ignored: np.ndarray | None) -> dict[str, Any]:
    """Means over the objects of a sample, whose masks are `truths` (N, H, W) bool; and `dices`, of each. `ignored`
    (H, W) bool."""
    counts = np.ones(truths.shape[1:], bool) if ignored is None else ~ignored
    unions, truths = [prediction.union() & counts for prediction in predictions], truths & counts
    rows = [compute_metrics(*pair, VALIDATION_METRICS) for pair in zip(unions, truths, strict=True)]
    triples = list(zip(predictions, unions, truths, strict=True))
    return {
        **{name: _mean(row[name] for row in rows) for name in VALIDATION_METRICS},
        "dices": [row["dice"] for row in rows],
        "seg_share": _mean(len(prediction.masks) > 0 for prediction, _, truth in triples if truth.any()),
        "false_alarm_share": _mean(union.any() for _, union, truth in triples if not truth.any()),
    }


def _mean(values: Iterable[float | np.bool]) -> float | None:
    """None of no values."""
    listed = [float(value) for value in values]
    return math.fsum(listed) / len(listed) if listed else None


def _drawn(sample_ids: Iterable[str], config: TrainConfig) -> list[str]:
    return sorted(sample_ids)[: config.validation.num_drawn]


def own_indices(samples: SampleIndex) -> np.ndarray:
    """Numbers of this rank's samples."""
    return np.arange(dist.get_rank(), len(samples), dist.get_world_size())


def _own_samples(samples: SampleIndex, count: Callable[[], None]) -> Iterator[tuple[int, _Row]]:
    """Yields (number, sample) for this rank's samples."""
    indices = own_indices(samples)
    for start in range(0, len(indices), _READ_AHEAD):
        chunk = indices[start : start + _READ_AHEAD]
        for numbered in zip(chunk.tolist(), samples.read(chunk), strict=True):
            yield numbered
            count()


def _in_lockstep(engine, items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Yields the items in micro batches, the same number on every rank: empty ones where a rank has no more."""
    items, size = iter(items), engine.train_micro_batch_size_per_gpu()
    while any_rank(engine, bool(chunk := list(islice(items, size)))):
        yield chunk


def _totals(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: math.fsum(row[name] for row in rows) for name in rows[0]}


def _check_decoded(undecodable: list[str]) -> None:
    """
    Raises:
        RunStoppedError: samples cannot be decoded on any rank.
    """
    if found := sorted(_gathered(undecodable)):
        shown = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
        raise RunStoppedError(
            f"{len(found)} validation samples cannot be decoded: {shown}. The data set is damaged: prepare it again."
        )


def _gathered(items: list[_Item]) -> list[_Item]:
    """The items of all ranks in one list, on all ranks."""
    return [item for of_rank in gather_objects(items) for item in of_rank]
