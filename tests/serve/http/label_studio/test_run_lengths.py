import time

import cv2
import numpy as np
import pytest

from sa2va_ray.serve.http.label_studio.run_lengths import mask_to_brush_rle


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
    mask_to_brush_rle(canvas.astype(bool))
    assert time.process_time() - started < 3
