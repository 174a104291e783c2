import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from sa2va_ray.images.brush_rle import brush_rle_to_mask, mask_to_brush_rle
from sa2va_ray.images.decode import ImageError

FIXTURES = Path(__file__).parents[1] / "fixtures/label_studio"


def decoded_by_the_book(rle):
    """The format's own description, bit by bit: values, as rle-pack's `decode` gives them."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    num, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < num:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(bits) - at < 8
    return np.array(values, np.uint8)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((1, 1), bool),
        np.ones((1, 1), bool),
        np.eye(20, dtype=bool),
        np.ones((200, 300), bool),  # a run longer than 2**16
        np.ones((128, 128), bool),  # of 2**16 exactly
        np.random.default_rng(0).random((37, 53)) < 0.5,
        np.random.default_rng(0).random((90, 400)) < 0.01,  # runs of each of the four kinds
    ],
)
def test_run_lengths_are_the_mask_as_rgba(mask):
    rle = mask_to_brush_rle(mask)
    assert all(type(byte) is int and 0 <= byte < 256 for byte in rle)
    np.testing.assert_array_equal(decoded_by_the_book(rle), np.repeat(mask.ravel(), 4) * np.uint8(255))


def test_known_bytes():
    """One white pixel: 4 values; 8 bits a value; lengths of 3, 4, 8, 16 bits; a run of kind 0, length 4, value 255."""
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "11111111"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    assert mask_to_brush_rle(np.ones((1, 1), bool)) == [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_a_large_mask_takes_no_long():
    canvas = np.zeros((2048, 2048), np.uint8)
    for radius in range(20, 1000, 20):
        cv2.circle(canvas, (1024, 1024), radius, 1, 3)
    started = time.process_time()
    mask = canvas.astype(bool)
    np.testing.assert_array_equal(brush_rle_to_mask(mask_to_brush_rle(mask), *mask.shape), mask)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("made", json.loads((FIXTURES / "brush.json").read_text()), ids=lambda made: made["name"])
def test_what_the_sdk_packs_is_its_alpha_of_half_and_more(made):
    alpha = np.array(made["alpha"])
    np.testing.assert_array_equal(brush_rle_to_mask(made["rle"], *alpha.shape), alpha >= 128)


@pytest.mark.parametrize("shape", [(1, 1), (20, 33), (300, 400)])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])
def test_a_mask_comes_back(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    np.testing.assert_array_equal(brush_rle_to_mask(mask_to_brush_rle(mask), *shape), mask)


def test_values_without_runs_and_windows_are_read():
    """A block of values one by one, as rle-pack writes what does not repeat, over several windows of bits."""
    values = np.random.default_rng(0).integers(0, 256, 4 * 150 * 200)
    bits = [f"{values.size:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"]
    for start in range(0, values.size, 1000):
        part = values[start : start + 1000]
        bits.append("0" + "11" + f"{len(part) - 1:016b}" + "".join(f"{value:08b}" for value in part))
    packed = np.packbits(np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")).tolist()
    expected = values.reshape(150, 200, 4)[..., 3] >= 128
    np.testing.assert_array_equal(brush_rle_to_mask(packed, 150, 200), expected)


@pytest.mark.parametrize(
    ("rle", "code"),
    [
        ([], "brush_size"),
        (mask_to_brush_rle(np.eye(9, dtype=bool)), "brush_size"),
        (mask_to_brush_rle(np.eye(20, dtype=bool))[:-1], "rle_broken"),
        (mask_to_brush_rle(np.eye(20, dtype=bool))[:-5], "rle_broken"),
        (mask_to_brush_rle(np.eye(20, dtype=bool))[:8], "rle_broken"),
        ([0, 0, 6, 64, 255, *[255] * 90], "rle_broken"),
        ([0.5], "rle_broken"),
        ([256], "rle_broken"),
        (["name"], "rle_broken"),
    ],
)
def test_what_is_no_brush_of_the_image_is_refused(rle, code):
    with pytest.raises(ImageError) as refused:
        brush_rle_to_mask(rle, 20, 20)
    assert refused.value.code == code
    assert "name" not in refused.value.reason
