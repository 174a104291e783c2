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
