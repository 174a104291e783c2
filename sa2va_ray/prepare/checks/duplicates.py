"""Finds images that are in a source twice, by their pixels, and nearly twice, by their perceptual hash."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from sa2va_ray.prepare.records import Quarantined

HASH_BITS = 256
IMAGE_TWICE = "image_twice"

_NUM_BANDS = 16  # of 16 bits: hashes that differ in at most 15 bits are equal in one of them
_MAX_SMALL_GROUP = 64
_BLOCK = 4096  # hashes whose pairs are held at once: 64 MiB


def perceptual_hash(pixels: np.ndarray) -> bytes:
    """32 bytes of an image, (H, W) or (H, W, 3) uint8, that stay nearly the same when it is scaled or compressed."""
    return np.packbits(imagehash.phash(Image.fromarray(pixels), hash_size=int(HASH_BITS**0.5)).hash).tobytes()


def equal_images(samples: Sequence[Mapping[str, Any]]) -> list[Quarantined]:
    """Which samples to leave out, where images have the same pixels.

    With one patient and one label the first is kept; what is right of different patients or labels is unknown.

    Args:
        samples: with `index, patient_id, pixels_sha256, masks_sha256`.
    """
    quarantined = []
    by_pixels = sorted(samples, key=lambda each: (each["pixels_sha256"], each["index"]))
    for _, group in groupby(by_pixels, key=lambda each: each["pixels_sha256"]):
        equal = list(group)
        kept, code, reason = 0, "", ""
        if len({each["patient_id"] for each in equal}) > 1:
            code, reason = (
                "image_of_two_patients",
                "The same image belongs to several patients; whose it is, is unknown.",
            )
        elif len({each["masks_sha256"] for each in equal}) > 1:
            code, reason = "image_with_two_labels", "The same image has several labels; which is right is unknown."
        else:
            kept, code, reason = 1, IMAGE_TWICE, f"The same image and label as item {equal[0]['index']}."
        quarantined += [Quarantined(each["index"], code, reason) for each in (equal[kept:] if len(equal) > 1 else [])]
    return quarantined


def near_duplicates(hashes: Mapping[int, bytes], splits: Mapping[int, str], max_bits: int) -> list[tuple[int, int]]:
    """Pairs of keys of two splits, smaller first, whose hashes differ in at most `max_bits` of `HASH_BITS`; at most 15.

    Every key that is in such a pair is in one that is returned, so there are no more of them than keys. By the
    pigeonhole principle only hashes that are equal in one band are compared, so a million images do not take a million
    million comparisons; where they are alike, as in runs of frames, all are compared with all, by matrix products.

    Args:
        splits: of each key.
    """
    keys = sorted(hashes)
    if len(keys) < 2:
        return []
    bits = np.frombuffer(b"".join(hashes[key] for key in keys), np.uint64).reshape(len(keys), -1)
    search = _Search(bits, np.unique([splits[key] for key in keys], return_inverse=True)[1], max_bits)
    groups = [group for band in range(_NUM_BANDS) for group in search.in_small_groups(band)]
    if sum(len(group) ** 2 for group in groups) > len(keys) ** 2:
        groups = [np.arange(len(keys))]
    for group in groups:
        search.all_with_all(group)
    pairs = {(min(i, j), max(i, j)) for i, j in enumerate(search.partners.tolist()) if j >= 0}
    return [(keys[first], keys[second]) for first, second in sorted(pairs)]


class _Search:
    """Attributes:
    partners: (K,) index of a near duplicate in another split, -1 where none is known.
    """

    def __init__(self, bits: np.ndarray, splits: np.ndarray, max_bits: int) -> None:
        """`bits` (K, 4) uint64, `splits` (K,) int."""
        self.partners = np.full(len(bits), -1)
        self._bits, self._splits, self._max_bits = bits, splits, max_bits

    def in_small_groups(self, band: int) -> list[np.ndarray]:
        """Compares the hashes that are equal in a band where they are few; returns the larger groups, as indices."""
        values = self._bits.view(np.uint16)[:, band]
        order = np.argsort(values, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
        in_large = np.isin(values[order], [values[group[0]] for group in groups if len(group) > _MAX_SMALL_GROUP])
        order = order[~in_large]
        for distance in range(1, _MAX_SMALL_GROUP):
            first, second = order[:-distance], order[distance:]
            equal = values[first] == values[second]
            if not equal.any():
                break
            equal &= self._splits[first] != self._splits[second]
            first, second = first[equal], second[equal]
            near = np.bitwise_count(self._bits[first] ^ self._bits[second]).sum(axis=1) <= self._max_bits
            self.partners[first[near]], self.partners[second[near]] = second[near], first[near]
        return [group for group in groups if len(group) > _MAX_SMALL_GROUP]

    def all_with_all(self, group: np.ndarray) -> None:
        """Compares the hashes of a group, as indices, across the splits."""
        for split in np.unique(self._splits[group]):
            own, others = group[self._splits[group] == split], group[self._splits[group] > split]
            for first in _blocks(own):
                signs = self._signs(first)
                for second in _blocks(others):
                    # Of signs, the product is the number of equal bits less that of the different ones.
                    near = signs @ self._signs(second).T >= HASH_BITS - 2 * self._max_bits
                    rows, columns = near.any(axis=1), near.any(axis=0)
                    self.partners[first[rows]] = second[near[rows].argmax(axis=1)]
                    self.partners[second[columns]] = first[near[:, columns].argmax(axis=0)]

    def _signs(self, indices: np.ndarray) -> np.ndarray:
        """(len(indices), HASH_BITS) float32, -1 and 1: their sums are exact."""
        return np.unpackbits(self._bits[indices].view(np.uint8), axis=1).astype(np.float32) * 2 - 1


def _blocks(indices: np.ndarray) -> Iterator[np.ndarray]:
    return (indices[start : start + _BLOCK] for start in range(0, len(indices), _BLOCK))
