import json
import pickle

import numpy as np
import pytest

from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources import read_source
from sa2va_ray.prepare.sources.labelme import read_labelme
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_json

POINTS = [[1, 1], [9, 1], [9.5, 9]]


def labelme(*shapes, **fields):
    content = {
        "imagePath": f"C:\\{HIDDEN}\\elsewhere.jpg",
        "imageData": "aGFucw==",
        "imageHeight": 12,
        "imageWidth": 16,
    }
    return {**content, "shapes": list(shapes) or [shape()], **fields}


def shape(points=POINTS, label="left artery", kind="polygon"):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}}


def read_label(*shapes, **fields):
    return read_labelme(json.dumps(labelme(*shapes, **fields)).encode(), "vessels")


def test_polygons_and_rectangles_are_grouped_by_label():
    label = read_label(shape(), shape([[8, 7], [2, 3]], "right", "rectangle"), shape())
    assert label.size == (12, 16)
    assert list(label.objects) == ["left artery", "right"]
    np.testing.assert_equal(label.objects["left artery"], [np.array(POINTS, float)] * 2)
    np.testing.assert_equal(label.objects["right"], [[[8, 7], [2, 7], [2, 3], [8, 3]]])


@pytest.mark.parametrize(
    ("shapes", "fields", "code"),
    [
        ([shape(kind="line")], {}, "shape_type"),
        ([shape(kind="circle")], {}, "shape_type"),
        ([shape(kind=HIDDEN)], {}, "shape_type"),
        ([shape(kind=["polygon"])], {}, "shape_type"),
        ([shape(POINTS[:2])], {}, "short_polygon"),
        ([shape([[1, 1], [2]])], {}, "wrong_type"),
        ([shape(HIDDEN)], {}, "wrong_type"),
        ([shape(POINTS, kind="rectangle")], {}, "wrong_type"),
        ([shape([[1], [2, 3]], kind="rectangle")], {}, "wrong_type"),
        ([shape(label="")], {}, "empty_text"),
        ([shape(label=None)], {}, "wrong_type"),
        ([HIDDEN], {}, "wrong_type"),
        ([], {"shapes": []}, "no_objects"),
        ([], {"shapes": HIDDEN}, "wrong_type"),
        ([], {"imageHeight": 12.5}, "wrong_type"),
    ],
)
def test_a_wrong_label_is_rejected_and_its_text_not_repeated(shapes, fields, code):
    with pytest.raises(Rejected) as caught:
        read_label(*shapes, **fields)
    assert caught.value.code == code
    assert HIDDEN not in str(caught.value)


def test_a_cut_off_label_is_rejected_without_its_text():
    with pytest.raises(Rejected, match="label_unreadable") as caught:
        read_labelme(f'{{"shapes": [{{"label": "{HIDDEN}'.encode(), "vessels")
    assert HIDDEN not in str(caught.value)
    assert caught.value.__context__ is None, "a traceback would show the text around the fault"


def test_a_label_belongs_to_the_image_of_its_stem_and_is_read_later(tmp_path, read):
    for name in (f"{HIDDEN}.jpg", "p1/images/a.png", "elsewhere.jpg"):
        write_image(tmp_path / name)
    for name in (f"{HIDDEN}.json", "p1/labels/a.json", "elsewhere.json"):
        write_json(tmp_path / name, labelme())
    (tmp_path / "p1/labels/a.json").write_text("cut off")
    source = read()
    assert source.layouts == {"labelme": 3}
    assert [record.name for record in source.records] == [f"{HIDDEN}.jpg", "elsewhere.jpg", "p1/images/a.png"]
    label = pickle.loads(pickle.dumps(source.records[0].label))
    assert label.uri == str(tmp_path / f"{HIDDEN}.json")
    assert list(label.read((tmp_path / f"{HIDDEN}.json").read_bytes(), label.phrase).objects) == ["left artery"]


def test_image_path_finds_what_the_stem_does_not(tmp_path, read):
    write_image(tmp_path / "elsewhere.jpg")
    write_json(tmp_path / f"{HIDDEN}.json", labelme())
    write_json(tmp_path / "lonely.json", labelme(imagePath=f"/home/{HIDDEN}.jpg"))
    write_json(tmp_path / "lonelier.json", labelme(imagePath=None))
    source = read()
    assert [record.name for record in source.records] == ["elsewhere.jpg"]
    assert codes(source) == {"orphan_label": 2}


def test_stems_that_two_images_or_two_labels_share_are_not_paired(tmp_path, read):
    for name in ("a.jpg", "a.png", "images/b.jpg", "c.jpg", "old/c.jpg"):
        write_image(tmp_path / name)
    for name in ("a.json", "labels/b.json", "json/b.json", "c.json"):
        write_json(tmp_path / name, labelme())
    source = read()
    assert codes(source) == {"ambiguous_pair": 4, "orphan_image": 1}
    assert [record.name for record in source.records] == ["c.jpg"]


def test_other_json_beside_images_is_no_label(tmp_path, read):
    for stem in ("a", "b"):
        write_image(tmp_path / f"images/{stem}.jpg")
        write_image(tmp_path / f"masks/{stem}.png")
        write_json(tmp_path / f"images/{stem}.json", {"exposure": 3})
    write_json(tmp_path / "dataset_info.json", {"version": 1})
    assert read().layouts == {"mask_images": 2}


def test_the_order_is_that_of_the_names(tmp_path):
    for stem in ("b", "a", "c"):
        write_image(tmp_path / f"{stem}.jpg")
        write_json(tmp_path / f"{stem}.json", labelme())
    records = read_source(str(tmp_path), OPTIONS).records
    assert [record.name for record in records] == ["a.jpg", "b.jpg", "c.jpg"]
