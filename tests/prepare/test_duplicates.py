import io
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from sa2va_ray.prepare.duplicates import equal_images, near_duplicates, perceptual_hash


def sample(index, patient="p", pixels="x", masks="m"):
    return {"index": index, "patient_id": patient, "pixels_sha256": pixels, "masks_sha256": masks}


def test_of_equal_images_with_one_label_the_first_is_kept():
    out = equal_images([sample(3), sample(1), sample(2), sample(0, pixels="y")])
    assert [(each.index, each.code) for each in out] == [(2, "image_twice"), (3, "image_twice")]
    assert "item 1" in out[0].reason


def test_contradictions_leave_all_out():
    assert {each.index for each in equal_images([sample(1, masks="a"), sample(2, masks="b")])} == {1, 2}
    out = equal_images([sample(1, patient="a"), sample(2, patient="b")])
    assert [(each.index, each.code) for each in out] == [(1, "image_of_two_patients"), (2, "image_of_two_patients")]


def textured(seed):
    noise = np.random.default_rng(seed).normal(size=(256, 256)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def test_scaled_and_compressed_copies_are_near_and_others_are_not():
    images = [textured(seed) for seed in range(20)]
    hashes = {seed: perceptual_hash(image) for seed, image in enumerate(images)}
    buffer = io.BytesIO()
    Image.fromarray(images[3]).save(buffer, "JPEG", quality=40)
    hashes[100] = perceptual_hash(np.asarray(Image.open(buffer)))
    hashes[101] = perceptual_hash(cv2.resize(images[7], (400, 400)))
    assert near_duplicates(hashes, 12) == [(3, 100), (7, 101)]


@pytest.mark.parametrize("max_bits", [0, 7, 15])
def test_every_pair_within_the_distance_is_found(max_bits):
    random = np.random.default_rng(max_bits)
    base = random.integers(0, 2, (40, 256), np.uint8)
    flipped = base.copy()
    for row in flipped:
        row[random.choice(256, random.integers(0, 25), replace=False)] ^= 1
    bits = np.concatenate([base, flipped])
    distance = (bits[:, None] != bits[None]).sum(axis=2)
    expected = [(i, j) for i in range(80) for j in range(i + 1, 80) if distance[i, j] <= max_bits]
    assert expected
    assert near_duplicates({i: np.packbits(row).tobytes() for i, row in enumerate(bits)}, max_bits) == expected


def test_a_hundred_thousand_images_are_not_compared_all_with_all():
    bits = np.random.default_rng(0).integers(0, 256, (100_000, 32), np.uint8)
    start = time.perf_counter()
    assert near_duplicates({i: row.tobytes() for i, row in enumerate(bits)}, 12) == []
    assert time.perf_counter() - start < 60  # 5 billion comparisons would take longer by far
