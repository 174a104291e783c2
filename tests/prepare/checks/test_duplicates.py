import io
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from sa2va_ray.prepare.checks.duplicates import equal_images, near_duplicates, perceptual_hash


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
    splits = dict.fromkeys(hashes, "train")
    assert near_duplicates(hashes, splits, 12) == []
    assert near_duplicates(hashes, splits | {100: "val", 101: "test"}, 12) == [(3, 100), (7, 101)]


def hashes_of(bits):
    """(K, 256) of 0 and 1 -> by index."""
    return {index: row.tobytes() for index, row in enumerate(np.packbits(bits, axis=1))}


@pytest.mark.parametrize("max_bits", [0, 7, 15])
@pytest.mark.parametrize("num_alike", [1, 200])
def test_every_image_with_a_near_duplicate_in_another_split_is_found(max_bits, num_alike):
    """Each alone, and as runs of frames that share most of their bits."""
    random = np.random.default_rng(max_bits)
    base = np.repeat(random.integers(0, 2, (40 if num_alike == 1 else 3, 256), np.uint8), 2 * num_alike, axis=0)
    for row in base:
        row[random.choice(256, random.integers(0, 13), replace=False)] ^= 1
    splits = random.choice(["train", "val", "test"], len(base))
    near = (base[:, None] != base[None]).sum(axis=2) <= max_bits
    near &= splits[:, None] != splits[None]
    assert near.any()
    pairs = near_duplicates(hashes_of(base), dict(enumerate(splits.tolist())), max_bits)
    assert all(near[pair] for pair in pairs)
    assert {index for pair in pairs for index in pair} == set(np.flatnonzero(near.any(axis=1)).tolist())


@pytest.mark.parametrize("count", [2, 64, 65])
def test_two_that_are_equal_in_16_bits_are_found_among_others_that_are_equal_there(count):
    """In the last of the pairs that are compared in a small group, and in a larger one."""
    bits = np.random.default_rng(0).integers(0, 2, (count, 256), np.uint8)
    bits[:, :16] = bits[0, :16]
    bits[-1] = bits[0]
    bits[-1, 16::16] ^= 1
    splits = dict.fromkeys(range(count), "train") | {count - 1: "val"}
    assert near_duplicates(hashes_of(bits), splits, 15) == [(0, count - 1)]
    assert near_duplicates(hashes_of(bits), splits, 14) == []


@pytest.mark.parametrize(("count", "share_flipped"), [(50_000, 0.5), (20_000, 0.02)])
def test_many_images_take_seconds(count, share_flipped):
    """Pictures of all kinds, and frames that are alike: 200 million pairs and more."""
    random = np.random.default_rng(0)
    bits = np.packbits(random.random((count, 256), np.float32) < share_flipped, axis=1)
    splits = {index: ("train", "train", "val")[index % 3] for index in range(count)}
    start = time.process_time()
    pairs = near_duplicates({index: row.tobytes() for index, row in enumerate(bits)}, splits, 12)
    assert time.process_time() - start < 60  # it takes 2 s; compared in Python it took 20 minutes
    assert len(pairs) <= count
    assert bool(pairs) == (share_flipped < 0.5)
