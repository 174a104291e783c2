"""Pixels that are made of a whole batch on its device have the bits of those that PIL makes one by one."""

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_ray.models.build import build_model
from sa2va_ray.models.sa2va import batch_pixels_sa2va, resize_sa2va
from sa2va_ray.models.sa2va.batch_pixels_sa2va import BatchPixels
from sa2va_ray.models.sa2va.resize_sa2va import UnknownOrderError, resize

RANDOM = np.random.default_rng(3)


def noise(width: int, height: int, hard: bool = False) -> np.ndarray:
    """`hard`: black and white only, which bicubic interpolation overshoots."""
    values = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(values > 127, 255, 0).astype(np.uint8) if hard else values


def by_pil(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height)))


def by_tensors(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return resize(torch.from_numpy(pixels).permute(2, 0, 1), width, height).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("hard", [False, True])
def test_resized_as_by_pil_at_any_sizes(hard):
    for _ in range(60):
        width, height, new_width, new_height = RANDOM.integers(1, 500, 4).tolist()
        pixels = noise(width, height, hard)
        assert np.array_equal(by_tensors(pixels, new_width, new_height), by_pil(pixels, new_width, new_height))


@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((512, 512), (1024, 1024)),
        ((1, 1), (448, 448)),
        ((1, 900), (448, 448)),
        ((900, 1), (448, 896)),
        ((2000, 3), (448, 448)),
        ((1280, 720), (1792, 896)),
        ((3000, 2000), (1024, 1024)),
        ((448, 600), (448, 448)),
        ((300, 448), (448, 448)),
        ((448, 448), (448, 448)),
        ((3, 6), (2, 3)),  # so few pixels that one noise does not tell the order
        ((363, 786), (3, 12)),
        ((24, 64), (1, 8)),
        ((57, 367), (20, 134)),  # columns first, in Pillow 13
        ((363, 300), (196, 132)),  # rows first, for all that both shrink
    ],
)
def test_resized_as_by_pil_where_it_is_likeliest_to_differ(size, new_size):
    for _ in range(20 if max(size) < 100 else 1):
        pixels = noise(*size)
        assert np.array_equal(by_tensors(pixels, *new_size), by_pil(pixels, *new_size))


@pytest.fixture(scope="module")
def processor(demo_architecture):
    return build_model(demo_architecture)[1]


def pictures() -> list[Image.Image | np.ndarray | None]:
    sizes = [(64, 64), (300, 100), (64, 64), (100, 300), (33, 70)]
    return [noise(*sizes[0]), None, *[Image.fromarray(noise(*size)) for size in sizes[1:]]]


@pytest.mark.parametrize("is_order_known", [True, False])
def test_tiles_and_grounding_images_are_those_of_the_processor(processor, monkeypatch, is_order_known):
    if not is_order_known:
        monkeypatch.setattr(batch_pixels_sa2va, "resize", refuse)
    images = pictures()
    made = BatchPixels(processor, images, torch.device("cpu"), with_pil=False)
    of_pil = BatchPixels(processor, images, torch.device("cpu"))
    for image, tiles, expected in zip(images, made.tiles(), of_pil.tiles(), strict=True):
        assert torch.equal(tiles, expected)
        assert (image is None) == (len(tiles) == 0)
    for numbers in ([0, 2, 3, 4, 5], [5, 0], [3]):
        assert torch.equal(made.grounding(numbers), of_pil.grounding(numbers))


def refuse(*_):
    raise UnknownOrderError


def test_a_pil_that_resizes_in_another_way_is_noticed(monkeypatch):
    resize_sa2va._is_width_first.cache_clear()
    monkeypatch.setattr(resize_sa2va, "_SHARPNESS", -0.75)
    resize_sa2va._taps.cache_clear()
    with pytest.raises(UnknownOrderError, match="to 80 x 50"):
        resize(torch.zeros(3, 30, 40, dtype=torch.uint8), 80, 50)
    resize_sa2va._taps.cache_clear()
