import itertools
import time

import cv2
import numpy as np
import pytest
from skimage.measure import grid_points_in_poly

from sa2va_ray.serve.http.encode.polygons import mask_to_multipolygon, num_points


def rasterised(polygons, height, width):
    """Even-odd: each vertical edge toggles the pixels to its right."""
    toggles = np.zeros((height, width + 1), np.int64)
    for ring in itertools.chain.from_iterable(polygons["coordinates"]):
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if x0 == x1:
                toggles[min(y0, y1) : max(y0, y1), x0] += 1
    return (np.cumsum(toggles, axis=1)[:, :width] % 2).astype(bool)


def signed_area(ring):
    """Positive where the ring runs counter-clockwise as seen on the image, y down."""
    x, y = np.array(ring, float).T
    return -0.5 * float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def check(mask):
    """The mask comes back, and each ring is what the docstring says."""
    polygons = mask_to_multipolygon(mask)
    assert polygons["type"] == "MultiPolygon"
    np.testing.assert_array_equal(rasterised(polygons, *mask.shape), mask)
    num_components, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(polygons["coordinates"]) == num_components - 1
    for outer, *holes in polygons["coordinates"]:
        assert signed_area(outer) > 0
        assert all(signed_area(hole) < 0 for hole in holes)
        filled = rasterised({"coordinates": [[outer, *holes]]}, *mask.shape)
        assert len(np.unique(labels[filled])) == 1
        assert signed_area(outer) + sum(map(signed_area, holes)) == filled.sum()
        for ring in (outer, *holes):
            assert ring[0] == ring[-1]
            assert len({tuple(point) for point in ring}) == len(ring) - 1  # touches itself nowhere
            turns = [
                (a[0] == b[0]) != (b[0] == c[0]) for a, b, c in zip(ring, ring[1:], [*ring[2:], ring[1]], strict=False)
            ]
            assert all(turns)  # no point on a straight line
    return polygons["coordinates"]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_random_masks_come_back(share):
    random = np.random.default_rng(int(100 * share))
    for _ in range(20):
        check(random.random(random.integers(1, 40, 2)) < share)


def test_every_mask_of_three_by_three():
    for number in range(2**9):
        check(np.array([number >> bit & 1 for bit in range(9)], bool).reshape(3, 3))


def test_thin_vessels_come_back():
    for width in (1, 2, 3):
        canvas = np.zeros((200, 300), np.uint8)
        cv2.line(canvas, (3, 5), (280, 190), 1, width)
        cv2.ellipse(canvas, (150, 100), (90, 60), 20, 0, 330, 1, width)
        cv2.circle(canvas, (150, 100), 30, 1, width)
        check(canvas.astype(bool))
    assert len(check(np.eye(50, dtype=bool))) == 50  # a diagonal one pixel wide: pixels that touch in corners only
    check(np.eye(50, dtype=bool)[::-1])


def test_islands_in_holes_are_polygons_of_their_own():
    mask = np.zeros((11, 11), bool)
    mask[1:10, 1:10] = True
    mask[3:8, 3:8] = False
    mask[5, 5] = True
    (ring, hole), (island,) = check(mask)
    assert ring == [[1, 1], [1, 10], [10, 10], [10, 1], [1, 1]]
    assert hole == [[3, 3], [8, 3], [8, 8], [3, 8], [3, 3]]
    assert island == [[5, 5], [5, 6], [6, 6], [6, 5], [5, 5]]


def test_holes_that_touch_in_a_corner_are_two():
    mask = np.ones((4, 4), bool)
    mask[1, 1] = mask[2, 2] = False
    assert [len(polygon) for polygon in check(mask)] == [3]


def test_another_rasteriser_agrees():
    mask = np.random.default_rng(3).random((25, 30)) < 0.6
    count = np.zeros(mask.shape, int)
    for ring in itertools.chain.from_iterable(mask_to_multipolygon(mask)["coordinates"]):
        count += grid_points_in_poly(mask.shape, np.array(ring)[:, ::-1] - 0.5)
    np.testing.assert_array_equal(count % 2 == 1, mask)


def test_empty_full_and_one_pixel():
    assert check(np.zeros((5, 7), bool)) == []
    assert check(np.ones((5, 7), bool)) == [[[[0, 0], [0, 5], [7, 5], [7, 0], [0, 0]]]]
    check(np.ones((1, 1), bool))


def test_a_large_image_takes_no_long():
    canvas = np.zeros((2048, 2048), np.uint8)
    random = np.random.default_rng(0)
    for start, end, width in zip(*random.integers(0, 2048, (2, 300, 2)), random.integers(1, 12, 300), strict=True):
        cv2.line(canvas, start.tolist(), end.tolist(), 1, int(width))
    mask = canvas.astype(bool)
    started = time.process_time()
    polygons = mask_to_multipolygon(mask)
    assert time.process_time() - started < 3  # 0.3 s where nothing else runs
    np.testing.assert_array_equal(rasterised(polygons, *mask.shape), mask)


def test_points_are_counted_before_they_are_made():
    for share in (0.02, 0.5, 0.9):
        mask = np.random.default_rng(1).random((30, 41)) < share
        rings = [ring for polygon in mask_to_multipolygon(mask)["coordinates"] for ring in polygon]
        assert num_points(mask) == sum(len(ring) - 1 for ring in rings)
