"""What several annotators drew of one image, and the one truth that is made of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from sa2va_ray.images.consensus import MAX_ANNOTATORS, Consensus, consensus
from sa2va_ray.metrics import overlap_metrics
from sa2va_ray.prepare.checks.polygons import draw_annotation
from sa2va_ray.prepare.records import Annotation, Finding, Rejected

_MIXED_UP = "Was an image or a label mixed up? Mend the labels, or leave out those that are wrong."

Masks = dict[str, np.ndarray]
"""Phrase -> (H, W) bool."""


@dataclass(frozen=True)
class Drawn:
    """Labels as pixels.

    Attributes:
        masks: phrase -> (H, W) bool, the truth.
        ignored: (H, W) bool of what a label, be it one of several, says to be neither object nor background.
        findings: what was repaired.
        by_annotator: annotator -> what each drew, where there are several.
    """

    masks: Masks
    ignored: np.ndarray
    findings: list[Finding]
    by_annotator: dict[str, Masks]


def draw_one(annotation: Annotation, size: tuple[int, int], label_size: tuple[int, int] | None) -> Drawn:
    """See `draw_annotation`."""
    return Drawn(*draw_annotation(annotation, *size, label_size), {})


@contextmanager
def of_annotator(place: int, number: int) -> Iterator[str]:
    """Puts before a rejection which of several annotators it is about; yields these words."""
    who = f"Of annotator {place} of {number}:"
    try:
        yield who
    except Rejected as rejected:
        raise Rejected(rejected.code, f"{who} {rejected.reason}") from None


def draw_several(
    annotations: Mapping[str, Annotation], size: tuple[int, int], label_size: tuple[int, int] | None
) -> Drawn:
    """The labels of several annotators, without any truth yet. What one of them ignores counts for none.

    Raises:
        Rejected: a label that cannot be drawn, or more annotators than are weighed.
    """
    number = len(annotations)
    if number > MAX_ANNOTATORS:
        raise Rejected("many_annotators", f"The image has {number} annotators; at most {MAX_ANNOTATORS} are weighed.")
    drawn: list[Drawn] = []
    for place, annotation in enumerate(annotations.values(), 1):
        with of_annotator(place, number) as who:
            one = draw_one(annotation, size, label_size)
        drawn.append(replace(one, findings=[Finding(each.code, f"{who} {each.detail}") for each in one.findings]))
    return Drawn(
        {},
        np.logical_or.reduce([one.ignored for one in drawn]),
        [finding for one in drawn for finding in one.findings],
        dict(zip(annotations, [one.masks for one in drawn], strict=True)),
    )


def with_consensus(drawn: Drawn, method: Consensus, unseen: Sequence[np.ndarray], min_agreement: float) -> Drawn:
    """`draw_several`'s with the consensus as the truth; empty masks where most annotators drew nothing at all.

    Args:
        unseen: (H, W) bool of what is no part of the picture.
        min_agreement: least mean Dice of every two annotators.

    Raises:
        Rejected: no pixel counts, or the annotators agree on none of what most of them drew, or too little.
    """
    counts = ~np.logical_or.reduce([drawn.ignored, *unseen])
    if not counts.any():
        raise Rejected("nothing_counts", "By the labels of all annotators together no pixel counts.")
    number, everyone = len(drawn.by_annotator), list(drawn.by_annotator.values())
    votes = {phrase: np.stack(each) for phrase, each in _by_phrase(everyone)}
    agreed = {phrase: consensus(each, method, counts) for phrase, each in votes.items()}
    drew = {phrase: sum(mask.any() for mask in each) for phrase, each in votes.items()}
    kept = {phrase: mask for phrase, mask in agreed.items() if mask.any()}
    lost = [phrase for phrase in agreed if phrase not in kept and 2 * drew[phrase] > number]
    num_silent = sum(not any(mask.any() for mask in each.values()) for each in everyone)
    if lost or not (kept or 2 * num_silent > number):
        raise Rejected(
            "no_consensus",
            f"{number} annotators drew {len(agreed)} object(s), and agree by annotators={method} on no pixel of "
            f"{len(lost) or len(agreed)} of them. {_MIXED_UP}",
        )
    found_agreement = agreement(drawn.by_annotator, counts)
    if found_agreement < min_agreement:
        raise Rejected(
            "no_consensus",
            f"The mean Dice of every two of {number} annotators is {found_agreement:.3f}, and checks.min_agreement "
            f"{min_agreement:g}. {_MIXED_UP}",
        )
    if not kept:
        return replace(drawn, masks=agreed)
    left = len(agreed) - len(kept)
    detail = f"{left} object(s) that at most half of {number} annotators drew were left out."
    found = [Finding("minority_object", detail)] if left else []
    return replace(drawn, masks=kept, findings=[*drawn.findings, *found])


def agreement(by_annotator: Mapping[str, Masks], counts: np.ndarray) -> float:
    """Mean Dice of every two annotators, over phrases, of the pixels that count."""
    pairs = [
        overlap_metrics(one & counts, other & counts)["dice"]
        for _, masks in _by_phrase(list(by_annotator.values()))
        for one, other in combinations(masks, 2)
    ]
    return float(np.mean(pairs)) if pairs else 1.0


def against_truth(by_annotator: Mapping[str, Masks], truth: Masks, counts: np.ndarray) -> dict[str, float]:
    """Annotator -> Dice of the masks and the truth, mean over its phrases, of the pixels that count."""
    return {
        annotator: float(
            np.mean(
                [
                    overlap_metrics(masks.get(phrase, np.zeros_like(mask)) & counts, mask & counts)["dice"]
                    for phrase, mask in truth.items()
                ]
            )
        )
        for annotator, masks in by_annotator.items()
    }


def _by_phrase(everyone: list[Masks]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Each phrase that somebody drew, in the order of first appearance, with the mask of each annotator."""
    for phrase in dict.fromkeys(phrase for masks in everyone for phrase in masks):
        some = next(masks[phrase] for masks in everyone if phrase in masks)
        yield phrase, [masks.get(phrase, np.zeros_like(some)) for masks in everyone]
