"""One mask of those that several annotators drew of one thing."""

from typing import Literal

import numpy as np

Consensus = Literal["majority", "staple"]
MAX_ANNOTATORS = 16

_MAX_ROUNDS = 1000
_TOLERANCE = 1e-7
_LEAST = 1e-12  # nobody is taken to be always right, or never


def consensus(masks: np.ndarray, method: Consensus, counts: np.ndarray | None = None) -> np.ndarray:
    """(H, W) bool: the pixels that belong to it for more than half of the annotators (`majority`; what just half of an
    even number drew does not), or that do so with a probability of more than a half (`staple`).

    Args:
        masks: (R, H, W) bool, of R annotators, at most `MAX_ANNOTATORS`.
        counts: (H, W) bool of the pixels by which annotators are judged; None: all.
    """
    if method == "majority":
        return 2 * np.count_nonzero(masks, axis=0) > len(masks)
    return staple(masks, counts)[0] > 0.5


def staple(masks: np.ndarray, counts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The truth as most likely by all annotators, and how good each is at it, by expectation maximisation (Warfield et
    al. 2004, IEEE TMI 23(7)): with one prior for all pixels, the mean share that the annotators drew.

    Returns:
        (H, W) float64, the probability that a pixel belongs to the object; (R,) of each annotator the sensitivity, the
        share of the object that was drawn, and the specificity, the share of the rest that was not.
    """
    assert len(masks) <= MAX_ANNOTATORS
    # Pixels on which all annotators say the same share their fate: at most 2^R of these.
    codes = np.zeros(masks.shape[1:], np.uint16)
    for bit, mask in enumerate(masks):
        codes |= mask.astype(np.uint16) << bit
    patterns = np.flatnonzero(np.bincount(codes.ravel()))
    sizes = np.bincount(codes[counts] if counts is not None else codes.ravel(), minlength=patterns[-1] + 1)[patterns]
    votes = (patterns[:, None] >> np.arange(len(masks)) & 1).astype(bool)
    truth = votes.mean(axis=1)
    prior = sizes @ truth / sizes.sum()
    rates = np.zeros((2, len(masks)))
    for _ in range(_MAX_ROUNDS):
        before, rates = rates, np.stack([_rates(sizes * truth, votes), _rates(sizes * (1 - truth), ~votes)])
        with_it = prior * np.where(votes, rates[0], 1 - rates[0]).prod(axis=1)
        without = (1 - prior) * np.where(votes, 1 - rates[1], rates[1]).prod(axis=1)
        truth = with_it / (with_it + without)
        if np.abs(rates - before).max() < _TOLERANCE:
            break
    of_code = np.zeros(patterns[-1] + 1)
    of_code[patterns] = truth
    return of_code[codes], rates[0], rates[1]


def _rates(weights: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """(R,): of (K,) weights the share at which each annotator has a vote, (K, R) bool."""
    return np.clip(weights @ votes / max(weights.sum(), _LEAST), _LEAST, 1 - _LEAST)
