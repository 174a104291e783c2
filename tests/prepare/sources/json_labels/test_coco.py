import json
from dataclasses import replace

import numpy as np
import pytest

from sa2va_ray.images.masks import mask_to_rle, rle_to_mask
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, SQUARE, codes, write_image, write_json

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
    source = read_coco(annotation([SQUARE], 2), annotation(packed), annotation(plain), annotation([SQUARE, SQUARE], 2))
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
        (annotation([]), "no_area"),
        (annotation(None, bbox=[1, 1, 9, 9]), "no_area"),
        (annotation(HIDDEN), "wrong_type"),
        (annotation([{"size": [H, W], "counts": COUNTS}, SQUARE]), "wrong_type"),
        (annotation({"size": [H, W], "counts": "b'PP"}), "rle_broken"),
        (annotation({"size": [H, W], "counts": "b'\\xff'"}), "rle_broken"),
        (annotation([SQUARE[:-1]]), "odd_polygon"),
        (annotation([SQUARE], 9), "category_id"),
        (annotation([SQUARE], [HIDDEN]), "category_id"),
        (annotation({"size": [H, W], "counts": COUNTS[:-1]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": [H * W + 5, -5]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": [0.5, H * W - 0.5]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": [float("inf")]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": [True, H * W - 1]}), "rle_broken"),
        (annotation({"size": [H, W], "counts": [int("9" * 4300)] * 2}), "rle_broken"),
        (annotation({"size": [H, W], "counts": "o" * 640_000 + "0"}), "rle_broken"),
        (annotation({"size": [H, W], "counts": "b'PP', b'PP'"}), "rle_broken"),
        (annotation({"size": [int("9" * 4300)] * 2, "counts": [5]}), "rle_broken"),
        (annotation({"size": [1e300, 1e300], "counts": [5]}), "rle_broken"),
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


@pytest.mark.parametrize("entry", [None, 7, [], {"category_id": 1}, {"image_id": None}])
def test_annotations_that_are_no_mappings_or_have_no_image_id_are_told_so(tmp_path, read, entry):
    write_image(tmp_path / "a.png")
    images = [image(1, "a.png")]
    write_json(tmp_path / "coco.json", {"images": images, "categories": [], "annotations": [entry]})
    reasons = {each.code: each.reason for each in read().quarantined}
    assert "are no mappings, or have no number or text as `image_id`" in reasons["orphan_label"]
    assert "1 annotation(s) of this file name no image that it has" in reasons["no_objects"]


def test_an_image_id_that_several_share_names_none(read_coco):
    source = read_coco(annotation([SQUARE]), images=[image(7, "missing.jpg"), HIDDEN])
    assert codes(source) == {"image_id": 1, "image_missing": 1, "wrong_type": 1}
    assert [record.index for record in source.records] == [1]


def test_categories_that_share_an_id_name_none(read_coco):
    source = read_coco(categories=({"id": 1, "name": "vessel"}, {"id": 1, "name": HIDDEN}, HIDDEN))
    assert codes(source) == {"category_id": 1}


@pytest.mark.parametrize(
    ("image_id", "named"), [("7", 7), (7, "7"), (7, 7.0), (7.0, "7"), ("7.0", 7), ("a-7", "a-7"), ("007", "007")]
)
def test_an_id_is_the_same_as_text_and_as_number(tmp_path, read, image_id, named):
    write_image(tmp_path / "a.jpg", (H, W))
    label = {"image_id": named, "category_id": "3", "segmentation": [SQUARE]}
    content = {"images": [image(image_id, "a.jpg")], "annotations": [label], "categories": [{"id": 3.0, "name": "x"}]}
    write_json(tmp_path / "coco.json", content)
    assert list(read().records[0].label.objects) == ["x"]


@pytest.mark.parametrize("image_id", ["007", "7 a", True, None, 7.5])
def test_an_image_whose_id_no_annotation_names_is_told_that_others_name_none(tmp_path, read, image_id):
    write_image(tmp_path / "a.jpg", (H, W))
    label = {"image_id": 7, "category_id": 3, "segmentation": [SQUARE]}
    content = {"images": [image(image_id, "a.jpg")], "annotations": [label], "categories": [{"id": 3, "name": "x"}]}
    write_json(tmp_path / "coco.json", content)
    first, orphan = read().quarantined
    assert first.code == ("image_id" if image_id in (None, True, 7.5) else "no_objects")
    assert first.code == "image_id" or "1 annotation(s) of this file name no image that it has" in first.reason
    assert orphan.place.item == ".annotations[0]"


@pytest.mark.parametrize(
    "segmentation",
    [
        [{"size": [H, W], "counts": COUNTS}],
        [mask_to_rle(MASK)],
        {"size": [float(H), str(W)], "counts": COUNTS},
        {"size": [H, W], "counts": [float(count) for count in COUNTS]},
        {"size": [H, W], "counts": repr(mask_to_rle(MASK)["counts"].encode())},
        [mask_to_rle(MASK & (np.arange(W) < 6)), {"size": [H, W], "counts": COUNTS}],
    ],
)
def test_run_lengths_are_read_in_a_list_and_as_printed_bytes(read_coco, segmentation):
    label = read_coco(annotation(segmentation)).records[0].label
    np.testing.assert_array_equal(np.logical_or.reduce([rle_to_mask(each) for each in label.objects["vessel"]]), MASK)


@pytest.mark.parametrize("segmentation", [SQUARE, [[1, 1], [9, 1], [9, 9], [1, 9]], [[[1, 1], [9, 1], [9, 9], [1, 9]]]])
def test_a_polygon_without_a_list_around_it_is_one(read_coco, segmentation):
    (polygon,) = read_coco(annotation(segmentation)).records[0].label.objects["vessel"]
    np.testing.assert_array_equal(polygon, np.reshape(SQUARE, (-1, 2)))


@pytest.mark.parametrize("size", [(12.0, 16.0), ("12", "16"), ("12.0", 16)])
def test_a_size_is_the_same_as_text_and_as_number(tmp_path, read, size):
    write_image(tmp_path / "a.jpg", (H, W))
    label = {"image_id": 7, "category_id": 3, "segmentation": [SQUARE]}
    entry = {"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}
    write_json(
        tmp_path / "coco.json", {"images": [entry], "annotations": [label], "categories": [{"id": 3, "name": "x"}]}
    )
    assert read().records[0].label.size == (12, 16)


def without_categories(tmp_path, *category_ids, **fields):
    write_image(tmp_path / "a.jpg", (H, W))
    labels = [{"image_id": 7, "category_id": each, "segmentation": [SQUARE]} for each in category_ids]
    write_json(tmp_path / "coco.json", {"images": [image(7, "a.jpg")], "annotations": labels, **fields})


@pytest.mark.parametrize("fields", [{}, {"categories": []}, {"categories": None}])
def test_without_categories_objects_of_one_id_are_called_as_the_config_says(tmp_path, read, fields):
    without_categories(tmp_path, 1, 1.0, **fields)
    assert list(read().records[0].label.objects) == [OPTIONS.phrase]


@pytest.mark.parametrize("fields", [{}, {"categories": []}, {"categories": {HIDDEN: 1}}])
def test_without_categories_objects_of_several_ids_are_refused(tmp_path, read, fields):
    without_categories(tmp_path, 1, 2, **fields)
    assert codes(read()) == {"category_id": 1}


@pytest.mark.parametrize(("how", "num_shapes"), [("ignore", 1), ("use", 2), ("quarantine", 0)])
def test_crowd_regions_beside_objects_are_what_the_config_says(tmp_path, read_coco, how, num_shapes):
    read_coco(annotation([SQUARE], iscrowd=0), annotation(mask_to_rle(MASK), iscrowd=1))
    source = read_source(str(tmp_path), replace(OPTIONS, on_crowd=how))
    if not num_shapes:
        assert codes(source) == {"crowd_region": 1}
        return
    label = source.records[0].label
    assert len(label.objects["vessel"]) == num_shapes
    assert [each.code for each in label.findings] == (["crowd_ignored"] if how == "ignore" else [])
    assert [rle_to_mask(shape).sum() for shape in label.ignored] == ([MASK.sum()] if how == "ignore" else [])


def test_an_image_of_crowd_regions_alone_is_used(read_coco):
    label = read_coco(annotation(mask_to_rle(MASK), iscrowd=1), annotation([SQUARE], iscrowd=True)).records[0].label
    assert len(label.objects["vessel"]) == 2


def test_ignored_categories_are_left_out_whatever_is_wrong_with_their_shapes(tmp_path, read_coco):
    read_coco(annotation([SQUARE]), annotation(None, 2, bbox=[1, 1, 2, 2]), annotation([[1, 2]], 2))
    source = read_source(str(tmp_path), replace(OPTIONS, ignore_labels=frozenset({"catheter"})))
    label = source.records[0].label
    assert list(label.objects) == ["vessel"]
    (finding,) = label.findings
    assert (finding.code, finding.detail[:9]) == ("label_ignored", "2 object(")


@pytest.mark.parametrize(
    "path",
    [
        f"..\\..\\label-studio\\media\\upload\\4\\cb0618f6-{HIDDEN}_frame_1.png",
        f"images\\1/cb0618f6-{HIDDEN}_frame_1.png",
        f"/data/upload/4/cb0618f6-{HIDDEN}_frame_1.png",
        f"http://localhost:8080/data/upload/4/cb0618f6-{HIDDEN}_frame_1.png",
        f"/data/local-files/?d=left%20eye/cb0618f6-{HIDDEN}_frame_1.png",
        f"https://host/bucket/left%20eye/cb0618f6-{HIDDEN}_frame_1.png?token=a/b",
        f"s3://bucket/left eye/cb0618f6-{HIDDEN}_frame_1.png",
        f"C:\\Users\\me\\cb0618f6-{HIDDEN}_frame_1.PNG",
        f"left%20eye/cb0618f6-{HIDDEN}_frame_1.png",
        f"left eye/CB0618F6-{HIDDEN}_frame_1.png",
    ],
)
def test_paths_of_another_computer_are_found_by_how_they_end(tmp_path, read, path):
    name = f"left eye/cb0618f6-{HIDDEN}_frame_1.png"
    write_image(tmp_path / "images" / name, (H, W))
    write_image(tmp_path / "images/right eye/other.png", (H, W))
    label = {"image_id": 7, "category_id": 3, "segmentation": [SQUARE]}
    content = {"images": [image(7, path)], "annotations": [label], "categories": [{"id": 3, "name": "x"}]}
    write_json(tmp_path / "result.json", content)
    (record,) = read().records
    assert record.name == f"images/{name}"
    assert (record.plain_name is not None) == any(sign in path for sign in ("upload", "images", "local-files"))
    assert record.plain_name in (None, f"images/left eye/{HIDDEN}_frame_1.png")


def test_of_images_with_one_name_the_one_whose_folder_fits_is_meant(tmp_path, read):
    for side in ("left", "right"):
        write_image(tmp_path / f"{side}/a.png", (H, W))
    paths = ("D:\\study\\left\\a.png", "/mnt/a.png")
    labels = [{"image_id": n, "category_id": 3, "segmentation": [SQUARE]} for n in range(2)]
    content = {"images": [image(n, path) for n, path in enumerate(paths)], "annotations": labels}
    write_json(tmp_path / "result.json", content)
    source = read()
    assert [record.name for record in source.records] == ["left/a.png"]
    assert codes(source) == {"image_ambiguous": 1, "orphan_image": 1}


def test_an_upload_is_found_without_its_prefix_and_named_once_only(tmp_path, read):
    write_image(tmp_path / "a.png", (H, W))
    paths = [f"/data/upload/1/{prefix}-a.png" for prefix in ("cb0618f6", "90fbb0c7")]
    labels = [{"image_id": n, "category_id": 3, "segmentation": [SQUARE]} for n in range(2)]
    content = {"images": [image(0, paths[0])], "annotations": labels[:1]}
    write_json(tmp_path / "result.json", content)
    assert [record.name for record in read().records] == ["a.png"]
    content = {"images": [image(n, path) for n, path in enumerate(paths)], "annotations": labels}
    write_json(tmp_path / "result.json", content)
    assert codes(read()) == {"path_twice": 2}


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
