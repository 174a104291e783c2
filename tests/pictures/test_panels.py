"""A picture shows what was found, what was missed and what was invented."""

import numpy as np
import pytest

from sa2va_ray.pictures.palette import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE
from sa2va_ray.pictures.panels import label_panels, mask_panels, three_panels

PANEL_PX = 320


def test_each_kind_of_pixel_has_its_colour():
    image = np.full((40, 60, 3), 100, np.uint8)
    truth, prediction = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    truth[10:20], prediction[15:25] = True, True
    picture = three_panels(image, truth, prediction)
    assert picture.shape == (40, 3 * 60 + 2 * 4, 3)
    assert picture.dtype == np.uint8
    left, middle, right = picture[:, :60], picture[:, 64:124], picture[:, 128:]
    assert (left == 100).all()
    assert np.array_equal(middle.all(axis=2), truth)
    tints = {row: tuple(right[row, 30]) for row in (5, 12, 17, 22)}
    assert tints[5] == (100, 100, 100)
    for row, colour in ((12, FALSE_NEGATIVE), (17, TRUE_POSITIVE), (22, FALSE_POSITIVE)):
        assert tints[row] == tuple(np.rint(0.25 * 100 + 0.75 * np.array(colour)).astype(int))
    assert (image == 100).all()  # the caller's own


def test_large_images_are_scaled():
    empty = np.zeros((1024, 768), bool)
    assert three_panels(np.zeros((1024, 768, 3), np.uint8), empty, empty).shape == (512, 3 * 384 + 2 * 4, 3)


def test_a_mask_is_beside_its_image_and_over_it():
    image, mask = np.full((40, 60, 3), 100, np.uint8), np.zeros((40, 60), bool)
    mask[10:20] = True
    picture = mask_panels(image, mask)
    left, middle, right = picture[:, :60], picture[:, 64:124], picture[:, 128:]
    assert (left == 100).all()
    assert np.array_equal(middle.all(axis=2), mask)
    assert np.array_equal((right != 100).any(axis=2), mask)


@pytest.mark.parametrize("side", [64, 320, 2048])
def test_label_panels_shows_a_vessel_of_one_pixel(side):
    image = np.full((side, side), 128, np.uint8)
    mask = np.zeros((side, side), bool)
    mask[:, side // 2] = True
    panels = label_panels(image, {"vessel": mask}, PANEL_PX).astype(int)
    original, marked = panels[:, :PANEL_PX], panels[:, -PANEL_PX:]
    assert (original == 128).all()
    changed = np.abs(marked - 128).sum(axis=2)[PANEL_PX // 2] > 20
    assert changed[PANEL_PX // 2 - 2 : PANEL_PX // 2 + 2].any()
    assert 2 <= changed.sum() <= 3 + PANEL_PX // side
    assert not changed[: PANEL_PX // 2 - 8].any()


def test_label_panels_takes_colour_and_keeps_the_shape_of_the_image():
    picture = label_panels(np.zeros((100, 400, 3), np.uint8), {"vessel": np.zeros((100, 400), bool)}, PANEL_PX)
    assert picture.shape == (PANEL_PX // 4, 2 * PANEL_PX + 4, 3)


def test_what_does_not_count_has_no_colour_and_is_hatched():
    image = np.full((64, 64, 3), 100, np.uint8)
    truth, prediction, ignored = np.zeros((3, 64, 64), bool)
    truth[:8], prediction[4:12], ignored[:, 32:] = True, True, True
    picture = three_panels(image, truth, prediction, ignored)
    assert (picture[:, :64] == 100).all()
    assert np.array_equal(picture[:, 68:100][:8], np.full((8, 32, 3), 255))
    assert (picture[:, 100:132] == 96).all()
    compared = picture[:, 136:]
    assert len(np.unique(compared[:, 32:].reshape(-1, 3), axis=0)) == 2
    assert (np.ptp(compared[:, 32:].astype(int), axis=2) == 0).all()
    assert (np.ptp(compared[:12, :32].astype(int), axis=2) > 0).all()
    labelled = label_panels(image, {"vessel": truth}, 64, ignored)
    assert not np.array_equal(labelled, label_panels(image, {"vessel": truth}, 64))
