"""Masks as polygons: exactly the outlines of their pixels."""

from typing import Any

import cv2
import numpy as np

_RIGHT = 1  # of the two sides, 0 and 1, that an edge leads to along a row


def mask_to_multipolygon(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool -> `{"type": "MultiPolygon", "coordinates": [polygon, ...]}`, exactly the outlines of the pixels.

    A polygon is a 4-connected component: its outer ring, then its holes. A ring is a list of [x, y], the last equal to
    the first, of corners of pixels: the pixel in row r and column c covers x in [c, c + 1] and y in [r, r + 1].
    Filling by the even-odd rule, a pixel where its centre is, gives the mask back. As seen on the image, x to the
    right and y down, outer rings run counter-clockwise and holes clockwise. Rings never cross or touch themselves, two
    of them may touch in a corner, as OGC's Simple Features wants it.
    """
    _, labels = cv2.connectedComponents(np.pad(mask, 1).astype(np.uint8), connectivity=4)
    corners = _Corners(labels)
    rings = _cycles(corners.successors())
    starts = np.array([ring[0] for ring in rings], int)
    points = np.stack([corners.x, corners.y], axis=1)
    flat = points[[index for ring in rings for index in [*ring, ring[0]]]].tolist() if rings else []
    polygons: dict[int, list] = {}
    begin = 0
    for ring, label in zip(rings, corners.components(starts).tolist(), strict=True):
        # Rings come in the order of their topmost corners, so a component's outer ring is before its holes.
        end = begin + len(ring) + 1
        polygons.setdefault(label, []).append(flat[begin:end])
        begin = end
    return {"type": "MultiPolygon", "coordinates": list(polygons.values())}


def num_points(mask: np.ndarray) -> int:
    """The number of points that `mask_to_multipolygon` would make of a mask, (H, W) bool, not counting the last of each
    ring, which repeats the first."""
    pixels = np.pad(mask, 1).view(np.uint8)
    top_left, top_right, bottom_left, bottom_right = _four_around(pixels)
    is_turn = top_left ^ top_right ^ bottom_left ^ bottom_right
    is_saddle = (top_left ^ top_right) & (top_left ^ bottom_left) & ~is_turn
    return int(np.count_nonzero(is_turn)) + 2 * int(np.count_nonzero(is_saddle))


class _Corners:
    """Where outlines turn, in the order of rows, then columns. Where two pixels touch diagonally, two outlines turn.

    Attributes:
        x, y: (C,) corners of pixels.
        horizontal, vertical: (C,) to which side the two edges of a corner lead.
    """

    def __init__(self, labels: np.ndarray):
        """`labels`: (H + 2, W + 2) 4-connected components, 0 for background and all around."""
        self._labels = labels
        is_set = labels > 0
        top_left, top_right, bottom_left, bottom_right = _four_around(is_set)
        is_saddle = (top_left == bottom_right) & (top_right == bottom_left) & (top_left != top_right)
        y, x = np.nonzero((top_left ^ top_right ^ bottom_left ^ bottom_right) | is_saddle)
        quads = np.stack([pixels[y, x] for pixels in _four_around(labels)])
        falling = quads[0] > 0  # of a saddle: top left and bottom right are set
        one, other = np.where(falling, quads[0], quads[1]), np.where(falling, quads[3], quads[2])
        # Each outline keeps to its own component; within one component, to its own hole.
        goes_round_falling = falling == (one != other)
        saddle = is_saddle[y, x]
        odd = _odd_one_out(quads > 0)
        first = np.where(saddle, np.where(goes_round_falling, 0, 2), odd)
        second = np.where(goes_round_falling, 3, 1)[saddle]
        which = np.concatenate([first, second])
        at = np.concatenate([np.arange(len(x)), np.flatnonzero(saddle)])
        order = np.argsort(at, kind="stable")
        at, which = at[order], which[order]
        self.x, self.y = x[at], y[at]
        self.horizontal, self.vertical = which % 2, which // 2

    def successors(self) -> np.ndarray:
        """(C,) the next corner of each, with the mask on the left-hand side of the way."""
        along_row = _partners(np.lexsort((self.horizontal, self.x, self.y)))
        along_column = _partners(np.lexsort((self.vertical, self.y, self.x)))
        return np.where(self._leaves_along_row(np.arange(len(self.x))), along_row, along_column)

    def components(self, starts: np.ndarray) -> np.ndarray:
        """(R,) the component that each ring belongs to, from its topmost, there leftmost, corner."""
        above, below = self._pixel(1, starts), self._pixel(3, starts)
        return np.where(self._leaves_along_row(starts), above, below)

    def _leaves_along_row(self, at: np.ndarray) -> np.ndarray:
        above_right, below_left = self._pixel(1, at) > 0, self._pixel(2, at) > 0
        return np.where(self.horizontal[at] == _RIGHT, above_right, below_left)

    def _pixel(self, which: int, at: np.ndarray) -> np.ndarray:
        return _four_around(self._labels)[which][self.y[at], self.x[at]]


def _four_around(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
    """(H + 2, W + 2) -> 4 x (H + 1, W + 1): the pixels top left, top right, bottom left, bottom right of corners."""
    return pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, :-1], pixels[1:, 1:]


def _odd_one_out(quads: np.ndarray) -> np.ndarray:
    """(4, C) bool -> (C,) which of the four pixels around a corner differs from the other three."""
    return np.argmax(quads == (quads.sum(axis=0) == 1), axis=0)


def _partners(order: np.ndarray) -> np.ndarray:
    """(C,) the other end of each edge: in this order the two ends of an edge are neighbours."""
    partners = np.empty_like(order)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return partners


def _cycles(successors: np.ndarray) -> list[list[int]]:
    """The cycles of a permutation, each from its least element, in the order of these."""
    following: list[int] = successors.tolist()
    seen, cycles = bytearray(len(following)), []
    for start in range(len(following)):
        if seen[start]:
            continue
        cycle, index = [], start
        while not seen[index]:
            seen[index] = 1
            cycle.append(index)
            index = following[index]
        cycles.append(cycle)
    return cycles
