import json

import numpy as np
import pytest

from sa2va_ray.data.masks import mask_to_rle, rle_to_mask
from tests.prepare.sources.conftest import HIDDEN, SQUARE, codes, write_image, write_json

H, W = 12, 16
MASK = np.zeros((H, W), bool)
MASK[2:9, 3:11] = MASK[5:12, 1:6] = True
COUNTS = [int(n) for n in np.diff(np.flatnonzero(np.diff(MASK.ravel("F"), prepend=False, append=False)), prepend=0)]
COUNTS = [*COUNTS, MASK.size - sum(COUNTS)]


@pytest.fixture
def read_coco(tmp_path, read):
    """Reads two images; the second is good, the first has the annotations given."""

    def read_them(*annotations, images=(), categories=({"id": 1, "name": "vessel"}, {"id": 2, "name": "catheter"})):
        for name in (f"{HIDDEN}_1.jpg", "b.jpg"):
            write_image(tmp_path / f"train/{name}", (H, W))
        entries = [image(7, f"{HIDDEN}_1.jpg"), image(3, "b.jpg"), *images]
        good = {"image_id": 3, "category_id": 1, "segmentation": [SQUARE]}
        content = {"images": entries, "annotations": [*annotations, good], "categories": list(categories)}
        write_json(tmp_path / "annotations/instances_train.json", content)
        return read()

    return read_them


def image(image_id, name, **fields):
    return {"id": image_id, "file_name": name, "height": H, "width": W, **fields}


def annotation(segmentation, category_id=1, **fields):
    return {"image_id": 7, "category_id": category_id, "segmentation": segmentation, **fields}


def test_polygons_and_both_forms_of_rle_are_grouped_by_category(read_coco):
    packed, plain = mask_to_rle(MASK), {"size": [H, W], "counts": COUNTS}
    source = read_coco(
        annotation([SQUARE], 2), annotation(packed), annotation(plain, iscrowd=1), annotation([SQUARE, SQUARE], 2)
    )
    assert source.layouts == {"coco": 2}
    assert [record.name for record in source.records] == [f"train/{HIDDEN}_1.jpg", "train/b.jpg"]
    label = source.records[0].label
    assert label.size == (H, W)
    assert {phrase: len(shapes) for phrase, shapes in label.objects.items()} == {"catheter": 3, "vessel": 2}
    for rle in label.objects["vessel"]:
        np.testing.assert_array_equal(rle_to_mask(rle), MASK)


def test_packed_counts_of_any_mask_are_read(read_coco):
    random = np.random.default_rng(0)
    masks = [random.random((H, W)) < share for share in (0.02, 0.3, 0.5, 0.98)] + [np.ones((H, W), bool)]
    source = read_coco(*(annotation(mask_to_rle(mask)) for mask in masks))
    for rle, mask in zip(source.records[0].label.objects["vessel"], masks, strict=True):
        np.testing.assert_array_equal(rle_to_mask(rle), mask)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (annotation([]), "no_objects"),
        (annotation(None), "wrong_type"),
        (annotation([SQUARE[:-1]]), "odd_polygon"),
        (annotation([SQUARE], 9), "category_id"),
        (annotation([SQUARE], [HIDDEN]), "category_id"),
        (annotation({"size": [H, W], "counts": COUNTS[:-1]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": [H * W + 5, -5]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": [H * W / 2, H * W / 2]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": []}), "rle_broken"),
        (annotation({"size": [H, W], "counts": HIDDEN}), "rle_broken"),
        (annotation({"size": [H, W], "counts": mask_to_rle(MASK)["counts"][:-1]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": "o" * 40}), "rle_broken"),
        (annotation({"size": [H, W], "counts": "\x7f\u00fc"}), "rle_broken"),
        (annotation({"size": HIDDEN, "counts": COUNTS}), "rle_broken"),
        (annotation({"size": [10_000, 10_000], "counts": [100_000_000]}), "label_too_large"),
        (annotation({"size": [H + 1, W], "counts": [(H + 1) * W]}), "label_sizes"),
    ],
)
def test_a_wrong_annotation_takes_its_image_alone(read_coco, wrong, code):
    source = read_coco(annotation([SQUARE]), wrong)
    assert codes(source) == {code: 1}
    assert [record.index for record in source.records] == [1]


def test_images_without_annotations_and_annotations_without_images_are_told(read_coco):
    source = read_coco({"image_id": HIDDEN, "category_id": 1, "segmentation": [SQUARE]}, HIDDEN)
    assert codes(source) == {"no_objects": 1, "orphan_label": 2}


def test_an_image_id_that_several_share_names_none(read_coco):
    source = read_coco(annotation([SQUARE]), images=[image(7, "missing.jpg"), HIDDEN])
    assert codes(source) == {"image_id": 1, "image_missing": 1, "wrong_type": 1}
    assert [record.index for record in source.records] == [1]


def test_categories_that_share_an_id_name_none(read_coco):
    source = read_coco(categories=({"id": 1, "name": "vessel"}, {"id": 1, "name": HIDDEN}, HIDDEN))
    assert codes(source) == {"category_id": 1, "no_objects": 1}


def test_the_size_is_that_of_the_rle_where_the_image_states_none(tmp_path, read):
    write_image(tmp_path / "a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": mask_to_rle(MASK)}],
        "categories": [{"id": 1, "name": "vessel"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (record,) = read().records
    assert record.label.size == (H, W)
