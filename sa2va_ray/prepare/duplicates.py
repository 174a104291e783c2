"""Finds images that are in a source twice, by their pixels, and nearly twice, by their perceptual hash."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from sa2va_ray.prepare.records import Quarantined

HASH_BITS = 256

_NUM_BANDS = 16  # of 16 bits: hashes that differ in at most 15 bits are equal in one of them
_PAIRS_AT_ONCE = 1 << 20


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
            kept, code, reason = 1, "image_twice", f"The same image and label as item {equal[0]['index']}."
        quarantined += [Quarantined(each["index"], code, reason) for each in (equal[kept:] if len(equal) > 1 else [])]
    return quarantined


def near_duplicates(hashes: Mapping[int, bytes], max_bits: int) -> list[tuple[int, int]]:
    """Pairs of keys, smaller first, whose hashes differ in at most `max_bits` of `HASH_BITS`; at most 15.

    By the pigeonhole principle only hashes that are equal in one band are compared, so a million images do not take a
    million million comparisons.
    """
    keys = np.array(sorted(hashes))
    if len(keys) < 2:
        return []
    bits = np.frombuffer(b"".join(hashes[key] for key in keys.tolist()), np.uint8).reshape(len(keys), -1)
    bands = bits.view(np.uint16)
    pairs: set[tuple[int, int]] = set()
    for band in range(_NUM_BANDS):
        for first, second in _pairs_with_equal(bands[:, band]):
            distance = np.bitwise_count(bits[first] ^ bits[second]).sum(axis=1)
            near = distance <= max_bits
            pairs.update(zip(keys[first[near]].tolist(), keys[second[near]].tolist(), strict=True))
    return sorted((min(pair), max(pair)) for pair in pairs)


def _pairs_with_equal(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index pairs whose values are equal, in arrays of bounded length."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=values[order[0]] - 1.0))
    pending: list[tuple[int, int]] = []
    for group in np.split(order, starts[1:]):
        for pair in combinations(group.tolist(), 2):
            pending.append(pair)
            if len(pending) == _PAIRS_AT_ONCE:
                yield _columns(pending)
                pending = []
    if pending:
        yield _columns(pending)


def _columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(pairs)
    return array[:, 0], array[:, 1]
