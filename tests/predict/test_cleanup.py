"""Clean-up of masks on cases with known answers."""

import numpy as np
import pytest
from pydantic import ValidationError

from sa2va_ray.predict.cleanup import CleanupConfig, clean_mask, to_masks


def mask(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


def test_nothing_is_done_by_default():
    noise = np.random.default_rng(0).random((2, 20, 30))
    np.testing.assert_array_equal(to_masks(noise, 0.5, CleanupConfig()), noise > 0.5)
    np.testing.assert_array_equal(clean_mask(noise[0] > 0.5, CleanupConfig()), noise[0] > 0.5)


def test_a_closing_of_1_is_3x3_and_bridges_2_pixels():
    line = mask("........", "###..###", "........")
    np.testing.assert_array_equal(clean_mask(line, CleanupConfig(close_px=1)), mask("." * 8, "#" * 8, "." * 8))
    wide = mask(".........", "###...###", ".........")
    np.testing.assert_array_equal(clean_mask(wide, CleanupConfig(close_px=1)), wide)


def test_an_opening_of_1_keeps_3x3_also_at_the_border_and_nothing_thinner():
    both = mask("###..##", "###..##", "###..##", ".......")
    expected = mask("###....", "###....", "###....", ".......")
    at_the_border = expected.copy()
    at_the_border[:3, 5:] = True  # 2 px wide, but going on beyond the border
    np.testing.assert_array_equal(clean_mask(both, CleanupConfig(open_px=1)), at_the_border)
    inside = np.pad(both, 1)
    np.testing.assert_array_equal(clean_mask(inside, CleanupConfig(open_px=1)), np.pad(expected, 1))


def test_components_are_8_connected_and_kept_from_their_least_size_on():
    diagonal = mask("#...", ".#..", "..#.", "....", "#...")
    expected = mask("#...", ".#..", "..#.", "....", "....")
    np.testing.assert_array_equal(clean_mask(diagonal, CleanupConfig(min_component_px=3)), expected)
    assert not clean_mask(diagonal, CleanupConfig(min_component_px=4)).any()


def test_holes_are_4_connected_enclosed_and_filled_up_to_their_greatest_size():
    loops = mask("..####", ".#.#.#", ".##..#", ".#####", "......")
    # One hole of 1 px, one of 3; they touch at a corner only. The background at the border is none.
    one = mask("..####", ".###.#", ".##..#", ".#####", "......")
    np.testing.assert_array_equal(clean_mask(loops, CleanupConfig(max_hole_px=2)), one)
    np.testing.assert_array_equal(
        clean_mask(loops, CleanupConfig(max_hole_px=1000)), mask("..####", ".#####", ".#####", ".#####", "......")
    )


def test_small_components_go_before_holes_are_filled():
    ring = mask("###", "#.#", "###")
    assert not clean_mask(np.pad(ring, 1), CleanupConfig(min_component_px=9, max_hole_px=1)).any()


def test_the_mask_given_is_not_changed_and_empty_masks_stay_empty():
    every = CleanupConfig(close_px=1, open_px=1, min_component_px=5, max_hole_px=5)
    full = np.ones((8, 9), bool)
    assert clean_mask(full, every).all()
    assert not clean_mask(~full, every).any()
    one = np.zeros((9, 9), bool)
    one[4, 4] = True
    clean_mask(one, every)
    assert one.sum() == 1
    assert to_masks(np.zeros((0, 4, 5)), 0.5, every).shape == (0, 4, 5)


def test_negative_sizes_are_refused():
    with pytest.raises(ValidationError):
        CleanupConfig(close_px=-1)
