"""The one rasteriser, and run lengths."""

import cv2
import numpy as np

from sa2va_ray.images.masks import mask_to_rle, polygons_to_mask, rle_to_mask


def test_overlapping_polygons_are_a_union():
    squares = [np.array([[1, 1], [5, 1], [5, 5], [1, 5]]), np.array([[3, 3], [8, 3], [8, 8], [3, 8]])]
    expected = np.zeros((10, 12), bool)
    expected[1:6, 1:6] = expected[3:9, 3:9] = True
    np.testing.assert_array_equal(polygons_to_mask(squares, 10, 12), expected)


def test_a_thin_vessel_survives_its_own_contour():
    vessel = np.zeros((64, 64), np.uint8)
    cv2.polylines(vessel, [np.array([[3, 5], [30, 20], [60, 58]])], False, 1, thickness=2)
    contours, _ = cv2.findContours(vessel, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    np.testing.assert_array_equal(polygons_to_mask([c[:, 0] for c in contours], 64, 64), vessel.astype(bool))


def test_rle_round_trip():
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    rle = mask_to_rle(mask)
    assert rle["size"] == [37, 53]
    np.testing.assert_array_equal(rle_to_mask(rle), mask)
