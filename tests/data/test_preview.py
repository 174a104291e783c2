"""The contact sheet shows what training sees."""

import io

import numpy as np
import pytest
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.augment import AugmentConfig
from sa2va_ray.data.preview import PreviewConfig, outlined_tile, preview, tinted_tile

TILE_PX = 384


def test_the_sheet_has_a_row_for_each_sample_and_varies_it(prepared_uri, bucket_uri):
    uri = f"{bucket_uri}/sheet.png"
    config = PreviewConfig(data_uri=prepared_uri, out=uri, num_samples=3, num_variants=2, augment=AugmentConfig.off())
    preview(config)
    still = read(uri)
    preview(config.model_copy(update={"augment": AugmentConfig()}))
    varied = read(uri)
    assert still.shape == varied.shape
    height, width = np.array(still.shape[:2]) // 3
    assert min(height, width) >= TILE_PX
    tiles = [still[4 : TILE_PX + 4, left : left + TILE_PX] for left in (4, width + 4, 2 * width + 4)]
    np.testing.assert_array_equal(tiles[1], tiles[2])  # unaugmented variants are alike
    assert not np.array_equal(tiles[0], tiles[1])
    np.testing.assert_array_equal(varied[4 : TILE_PX + 4, 4 : TILE_PX + 4], tiles[0])
    assert not np.array_equal(still, varied)


def test_a_split_that_is_smaller_is_shown_whole(prepared_uri, bucket_uri):
    uri = f"{bucket_uri}/sheet.png"
    preview(PreviewConfig(data_uri=prepared_uri, out=uri, split="val", num_samples=32, num_variants=1))
    assert read(uri).shape[0] // TILE_PX == 3


def test_outlines_and_tints_are_where_the_masks_are():
    """In an image that is wider than high, and black."""
    image, masks = np.zeros((192, 384, 3), np.uint8), np.zeros((2, 192, 384), bool)
    masks[0, 20:40, 30:90] = masks[1, 100:101, 200:300] = True
    tint = tinted_tile(image, masks)
    np.testing.assert_array_equal(tint.any(axis=2)[:192], masks.any(axis=0))
    assert not tint[192:].any()
    assert not np.array_equal(tint[30, 60], tint[100, 250])
    outline = outlined_tile(image, masks).any(axis=2)
    assert outline[19, 29:91].all()
    assert outline[99, 199:301].all()
    assert not (outline[:192] & masks.any(axis=0)).any()


def test_what_does_not_count_is_hatched():
    image, masks, ignored = (
        np.full((384, 384, 3), 100, np.uint8),
        np.zeros((1, 384, 384), bool),
        np.zeros((384, 384), bool),
    )
    ignored[:, :200] = True
    for tile in (outlined_tile(image, masks, ignored), tinted_tile(image, masks, ignored)):
        assert (tile[:, :199] != 100).any(axis=2).all()
        assert (tile[:, 201:] == 100).all()


def test_an_output_that_is_no_png_is_refused(tmp_path):
    with pytest.raises(UserError, match="out"):
        PreviewConfig.parse({"data_uri": str(tmp_path), "out": "sheet.jpg"})


def read(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(storage.read_bytes(uri))))
