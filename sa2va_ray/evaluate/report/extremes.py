"""The images that a model did best on, worst on, and in between, drawn with their truth."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sa2va_ray.data.sample import decode_image, ignored_mask, phrase_masks
from sa2va_ray.evaluate.inputs import Split
from sa2va_ray.evaluate.passes.answers import UNREADABLE, has_pixels
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.metrics.catalogue import CATALOGUE, HEADLINE_METRICS
from sa2va_ray.pictures.classes import Colours, answer_panels, phrase_colours
from sa2va_ray.pictures.sheet import Picture

_NUM_OF_EACH = 3
_Row = dict[str, Any]


def draw_extremes(rows: Sequence[_Row], split: Split) -> list[Picture]:
    """Up to three images of each rank by Dice, none twice: `answer_panels` of each, the worst first."""
    by_image: dict[int, list[_Row]] = {}
    for row in rows:
        by_image.setdefault(row["row"], []).append(row)
    ordered = sorted(by_image.values(), key=lambda of_image: -_mean(of_image, "dice"))
    samples = split.open()
    colours = phrase_colours(samples.phrases)
    return [
        Picture(caption(rank, ordered[place]), _draw(ordered[place], samples[ordered[place][0]["row"]], colours))
        for rank, places in _places(len(ordered)).items()
        for place in places
    ]


def caption(rank: str, rows: Sequence[_Row]) -> str:
    """E.g. "Worst: Dice 0.512, clDice 0.600, Precision 0.700, Recall 0.401. Image 3f...": means over its objects."""
    scores = ", ".join(
        f"{CATALOGUE[name].label} {CATALOGUE[name].format(_mean(rows, name))}" for name in HEADLINE_METRICS
    )
    return f"{rank.capitalize()}: {scores}. Image {rows[0]['sample_id']}"


def _mean(rows: Sequence[_Row], metric: str) -> float:
    return float(np.mean([row[metric] for row in rows]))


def _places(num_images: int) -> dict[str, Sequence[int]]:
    """rank -> places in the order from best to worst."""
    each = min(_NUM_OF_EACH, num_images // 3)
    if not each:
        return {"worst": [num_images - 1], "best": range(num_images - 1)}
    start = (num_images - each) // 2
    return {
        "worst": range(num_images - 1, num_images - 1 - each, -1),
        "median": range(start, start + each),
        "best": range(each),
    }


def _draw(rows: Sequence[_Row], sample: _Row, colours: Colours) -> np.ndarray:
    truths, ignored = phrase_masks(sample), ignored_mask(sample)
    predictions = {phrase: np.zeros_like(truth) for phrase, truth in truths.items()}
    if rows[0]["failure"] == UNREADABLE:
        image = np.zeros((*next(iter(truths.values())).shape, 3), np.uint8)
        return answer_panels(image, truths, predictions, colours, ignored)
    predictions |= {row["phrase"]: rle_to_mask(row["rle"]) for row in rows if has_pixels(row)}
    return answer_panels(np.asarray(decode_image(sample)), truths, predictions, colours, ignored)
