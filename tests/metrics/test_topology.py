"""Pieces and loops that can be counted by eye."""

import numpy as np
import pytest

from sa2va_ray.metrics import betti_errors

EMPTY = np.zeros((12, 12), bool)
RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
DIAMOND = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)  # joined by its corners only


def at(*placed: tuple[np.ndarray, int, int]) -> np.ndarray:
    drawn = EMPTY.copy()
    for shape, top, left in placed:
        drawn[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    return drawn


@pytest.mark.parametrize(
    ("mask", "pieces", "loops"),
    [
        (EMPTY, 0, 0),
        (~EMPTY, 1, 0),
        (at((RING, 1, 1)), 1, 1),
        (at((RING, 0, 0)), 1, 1),  # at the border
        (at((DIAMOND, 2, 2)), 1, 1),  # 8-connected, and so it closes a loop
        (at((RING, 0, 0), (RING, 5, 5), (np.ones((1, 1)), 10, 0)), 3, 2),
        (at((RING, 0, 0), (RING, 2, 2)), 1, 2),  # sharing a corner
        (at((np.ones((12, 1), bool), 0, 6)), 1, 0),  # background in two parts, both at the border: no loop
    ],
)
def test_errors_against_an_empty_mask_are_the_numbers_themselves(mask, pieces, loops):
    assert betti_errors(mask, EMPTY) == {"betti0_error": pieces, "betti1_error": loops}
    assert betti_errors(EMPTY, mask) == {"betti0_error": pieces, "betti1_error": loops}
    assert betti_errors(mask, mask) == {"betti0_error": 0, "betti1_error": 0}


def test_a_break_opens_a_loop_and_two_breaks_make_a_piece():
    ring = at((np.pad(np.zeros((4, 4), bool), 1, constant_values=True), 2, 2))
    once, twice = ring.copy(), ring.copy()
    once[2, 4], twice[[2, 7], 4] = False, False
    assert betti_errors(once, ring) == {"betti0_error": 0, "betti1_error": 1}
    assert betti_errors(twice, ring) == {"betti0_error": 1, "betti1_error": 1}


def test_masks_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        betti_errors(EMPTY, np.zeros((3, 3), bool))
