"""A contact sheet is a grid."""

import numpy as np
import pytest

from sa2va_ray.pictures.sheet import Picture, contact_sheet

RED = np.full((50, 100, 3), [255, 0, 0], np.uint8)


@pytest.mark.parametrize(("count", "columns", "size"), [(5, 3, (3, 2)), (2, 3, (2, 1)), (0, 3, (1, 1))])
def test_contact_sheet_is_a_grid(count, columns, size):
    pictures = [Picture(f"caption {place}\nof it", RED) for place in range(count)]
    sheet = contact_sheet(pictures, columns)
    cell = contact_sheet(pictures[:1], 1).shape
    assert sheet.shape == (cell[0] * size[1], cell[1] * size[0], 3)
    is_red = (sheet == [255, 0, 0]).all(axis=2)
    assert is_red.sum() == count * 100 * 50


def test_a_caption_is_below_its_picture_and_within_its_cell():
    sheet = contact_sheet([Picture("a caption that is far too long for its cell", RED), Picture("", RED)], 2)
    is_text = (sheet < 128).all(axis=2)
    assert is_text[54:, : sheet.shape[1] // 2].any()
    assert not is_text[:54].any()
    assert not is_text[:, sheet.shape[1] // 2 :].any()
