import tracemalloc

import cv2
import numpy as np
import pytest

from sa2va_ray.images.masks import mask_to_rle, polygons_to_mask
from sa2va_ray.prepare.checks.polygons import draw_annotation, wound_twice
from sa2va_ray.prepare.records import Annotation, Rejected

SQUARE = np.array([[10, 10], [30, 10], [30, 30], [10, 30]], float)


def masks_of(shapes, height=40, width=40, size=None, label_size=None):
    masks, _, findings = draw_annotation(Annotation({"vessel": shapes}, size), height, width, label_size)
    return masks["vessel"], [finding.code for finding in findings]


def test_overlapping_polygons_are_a_union():
    mask, codes = masks_of([SQUARE, SQUARE + 5])
    assert mask.sum() == 21 * 21 * 2 - 16 * 16
    assert codes == []


def test_a_label_made_for_another_size_is_scaled_and_said_so():
    mask, codes = masks_of([SQUARE * 2 + 0.5], size=(80, 80))
    np.testing.assert_array_equal(mask, polygons_to_mask([SQUARE], 40, 40))
    assert codes == ["size_rescaled"]


def test_thin_vessels_survive_scaling_of_a_mask():
    large = np.zeros((80, 80), bool)
    large[40:44] = True
    mask, codes = masks_of([mask_to_rle(large)], size=(80, 80))
    np.testing.assert_array_equal(np.flatnonzero(mask.any(axis=1)), [20, 21])
    assert codes == ["size_rescaled"]


def test_label_size_is_for_polygons_that_do_not_fit_only():
    assert masks_of([SQUARE], label_size=(80, 80))[1] == []
    mask, codes = masks_of([SQUARE * 2 + 0.5], label_size=(80, 80))
    assert codes == ["size_rescaled"]
    np.testing.assert_array_equal(mask, polygons_to_mask([SQUARE], 40, 40))


@pytest.mark.parametrize(
    ("shapes", "size", "code"),
    [
        ([SQUARE * 2], None, "polygon_outside"),
        ([SQUARE[:2]], None, "short_polygon"),
        ([SQUARE], (40, 80), "size_aspect"),
    ],
)
def test_what_cannot_be_repaired_is_rejected_with_its_numbers(shapes, size, code):
    with pytest.raises(Rejected, match=r"\d") as caught:
        masks_of(shapes, size=size)
    assert caught.value.code == code


def test_a_polygon_over_itself_has_no_hole():
    twice_around = np.array(
        [[5, 5], [35, 5], [35, 35], [5, 35], [5, 5], [15, 15], [25, 15], [25, 25], [15, 25], [15, 15]]
    )
    holed = np.array([[5, 5], [35, 5], [35, 35], [5, 35], [5, 5], [15, 15], [15, 25], [25, 25], [25, 15], [15, 15]])
    mask, codes = masks_of([twice_around.astype(float)])
    assert codes == ["self_overlap"]
    assert mask[5:36, 5:36].all()
    mask, codes = masks_of([holed.astype(float)])  # the inner ring runs the other way: a hole, cut by a bridge
    assert codes == []
    assert not mask[20, 20]


def test_winding_agrees_with_the_rasteriser_inside_simple_polygons():
    random = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(random.uniform(0, 2 * np.pi, 12))
        radius = random.uniform(12, 30)  # convex: no gaps so narrow that the rasteriser draws over them
        star = np.rint(32 + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))
        assert not wound_twice(star, 64, 64).any()
        both = np.concatenate([star, star])  # the same way twice: all of it is wound twice
        raster = np.zeros((64, 64), np.uint8)
        cv2.fillPoly(raster, [star.astype(np.int32)], 1)
        inner = cv2.erode(raster, np.ones((3, 3), np.uint8)).astype(bool)
        assert wound_twice(both, 64, 64)[inner].all()
        assert not wound_twice(both, 64, 64)[~cv2.dilate(raster, np.ones((3, 3), np.uint8)).astype(bool)].any()


def winding(polygon, height, width):
    """(height, width): how often a polygon goes around each pixel, by the crossings of a ray to the left."""
    y, x = np.mgrid[:height, :width]
    turns = np.zeros((height, width), int)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (min(y0, y1) <= y) & (y < max(y0, y1))
        turns += np.where(crosses & (x0 + (y - y0) * ((x1 - x0) / (y1 - y0)) <= x), np.sign(y1 - y0), 0).astype(int)
    return np.abs(turns)


def test_what_is_wound_twice_is_so_by_its_definition_also_beyond_the_border():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        polygon = random.uniform(-8, 38, (9, 2))
        twice = wound_twice(polygon, 24, 30)
        assert (twice == (winding(polygon, 24, 30) > 1)).all()
        found += twice.any()
    assert found > 10


def peak_bytes(annotation, side):
    tracemalloc.start()
    try:
        draw_annotation(annotation, side, side, None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_objects_take_the_memory_and_time_of_a_few_masks():
    """Of each polygon a box is looked at, and of run lengths one mask is there at a time."""
    side = 1000
    small = [np.array([[x, 10.0], [x + 9, 10], [x + 9, 30], [x, 30]]) for x in range(10, 900, 10)]
    assert peak_bytes(Annotation({"vessel": small}), side) < 5 * side**2
    rle = mask_to_rle(np.eye(side, dtype=bool))
    assert peak_bytes(Annotation({"vessel": [rle] * 40}), side) < 8 * side**2
