import base64
import io
import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.config import UserError
from sa2va_ray.prepare.checks.polygons import draw_annotation
from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources import read_source
from sa2va_ray.prepare.sources.json_labels.labelme import read_labelme
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_json

POINTS = [[1, 1], [9, 1], [9.5, 9]]
PART = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]], bool)
_BUFFER = io.BytesIO()
Image.fromarray(PART).save(_BUFFER, "PNG")
PNG = base64.b64encode(_BUFFER.getvalue()).decode()


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


@pytest.mark.parametrize("kind", [None, "polygon"])
def test_a_shape_without_type_is_a_polygon(kind):
    without = {key: value for key, value in shape().items() if key != "shape_type"}
    for each in (shape(kind=kind), without):
        np.testing.assert_equal(read_label(each).objects["left artery"], [np.array(POINTS, float)])


def filled(kind, points, size=(64, 64), **fields):
    """(H, W) bool of a single shape."""
    content = labelme(shape(points, kind=kind) | fields, imageHeight=size[0], imageWidth=size[1])
    masks, _, _ = draw_annotation(read_labelme(json.dumps(content).encode(), ""), *size, label_size=None)
    return masks["left artery"]


@pytest.mark.parametrize(
    ("kind", "points", "axes"),
    [
        ("circle", [[32, 30], [44, 30]], (12, 12)),
        ("circle", [[32, 30], [32, 18]], (12, 12)),
        ("ellipse", [[12, 24], [52, 36]], (20, 6)),
        ("ellipse", [[32, 30], [52, 30], [32, 24]], (20, 6)),
    ],
)
def test_circles_and_ellipses_cover_their_area(kind, points, axes):
    y, x = np.mgrid[:64, :64]
    distance = ((x - 32) / axes[0]) ** 2 + ((y - 30) / axes[1]) ** 2
    mask = filled(kind, points)
    # The rasteriser counts pixels that the outline touches, half a pixel on each side.
    half_pixel = 0.75 / min(axes)
    assert mask[distance <= (1 - half_pixel) ** 2].all()
    assert not mask[distance >= (1 + half_pixel) ** 2].any()


@pytest.mark.parametrize("kind", ["rectangle", "rotation", "oriented_rectangle"])
def test_rectangles_of_four_corners_are_polygons(kind):
    corners = [[32, 10], [52, 30], [32, 50], [12, 30]]
    np.testing.assert_array_equal(filled(kind, corners), filled("polygon", corners))


def test_a_mask_lies_where_its_first_corner_is():
    expected = np.zeros((12, 16), bool)
    expected[3:7, 5:8] = PART
    np.testing.assert_array_equal(filled("mask", [[5.0, 3.0], [7.0, 6.0]], (12, 16), mask=PNG), expected)


@pytest.mark.parametrize("box", [[[5, 3], [8, 7]], [[5, 3], [7, 6]], [[4.6, 2.7], [7.6, 6.7]], [[7, 6], [5, 3]]])
def test_the_box_of_a_mask_may_count_its_last_pixel_or_not(box):
    assert filled("mask", box, (12, 16), mask=PNG)[3:7, 5:8].sum() == PART.sum()


def test_a_mask_may_be_broken_into_lines():
    broken = "\r\n ".join(PNG[start : start + 76] for start in range(0, len(PNG), 76)) + "\n"
    np.testing.assert_array_equal(
        filled("mask", [[5, 3], [7, 6]], mask=broken), filled("mask", [[5, 3], [7, 6]], mask=PNG)
    )


@pytest.mark.parametrize("encoding", ["cp1252", "gbk"])
@pytest.mark.parametrize("stem", ["a", "other"])
def test_a_label_in_another_encoding_is_told_as_such(tmp_path, read, encoding, stem):
    text = {"cp1252": "Gef\u00e4\u00df", "gbk": "\u8840\u7ba1"}[encoding]
    write_image(tmp_path / "a.png")
    (tmp_path / f"{stem}.json").write_bytes(json.dumps(labelme(shape(label=text)), ensure_ascii=False).encode(encoding))
    if stem == "other":
        with pytest.raises(UserError, match="not UTF-8 text"):
            read()
    else:
        label = read().records[0].label
        with pytest.raises(Rejected, match="not UTF-8 text") as caught:
            label.read((tmp_path / "a.json").read_bytes(), "")
        assert caught.value.code == "label_unreadable"


def test_ignored_labels_are_left_out_whatever_their_shape():
    fovea = shape([[6, 6]], "fovea ", "point")
    content = json.dumps(labelme(shape(), fovea, shape(None, "fovea"))).encode()
    label = read_labelme(content, "", ignore_labels={"fovea"})
    assert list(label.objects) == ["left artery"]
    assert [(each.code, each.detail[0]) for each in label.findings] == [("label_ignored", "2")]
    with pytest.raises(Rejected, match="ignore_labels"):
        read_labelme(content, "")


@pytest.mark.parametrize(
    ("suffix", "data", "reason"),
    [
        ("heic", None, r"not read \(heic\)"),
        (HIDDEN, None, r"not read \(unknown\)"),
        (None, "aGFucw==", "only inside the label file"),
        (None, None, "misspelt"),
    ],
)
def test_a_label_without_image_says_why(tmp_path, read, suffix, data, reason):
    write_json(tmp_path / f"{HIDDEN}.json", labelme(imageData=data))
    if suffix:
        (tmp_path / f"{HIDDEN}.{suffix}").write_bytes(b"?")
    write_image(tmp_path / "a.png")
    write_json(tmp_path / "a.json", labelme())
    (orphan,) = read().quarantined
    assert orphan.code == "orphan_label"
    assert re.search(reason, orphan.reason)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[orphan.place.label_file - 1] == f"{HIDDEN}.json"


@pytest.mark.parametrize(
    ("shapes", "fields", "code"),
    [
        ([shape(kind="line")], {}, "shape_type"),
        ([shape(kind="linestrip")], {}, "shape_type"),
        ([shape(POINTS[:1], kind="point")], {}, "shape_type"),
        ([shape(kind="circle")], {}, "wrong_type"),
        ([shape([[3, 3], [3, 3]], kind="circle")], {}, "short_polygon"),
        ([shape(POINTS[:1], kind="ellipse")], {}, "wrong_type"),
        ([shape(kind="rotation")], {}, "wrong_type"),
        ([shape([[1, float("nan")], [2, 3]], kind="circle")], {}, "wrong_type"),
        *[
            ([shape([[1, 1], [far, 2]], kind=kind)], {}, "polygon_outside")
            for far in (1e10, 1e16, 1e308)
            for kind in ("circle", "ellipse")
        ],
        ([shape([[-1e308, 1], [1e308, 2]], kind="circle")], {}, "polygon_outside"),
        ([shape(None)], {}, "wrong_type"),
        ([shape(POINTS[:2], kind="mask")], {}, "wrong_type"),
        ([shape(POINTS[:2], kind="mask") | {"mask": [PNG]}], {}, "wrong_type"),
        ([shape(POINTS[:2], kind="mask") | {"mask": "\u00fc"}], {}, "mask_unreadable"),
        ([shape([[1, 1], [12, 5]], kind="mask") | {"mask": PNG}], {}, "label_sizes"),
        ([shape([[1, 1], [2, 2]], kind="mask") | {"mask": PNG}], {}, "label_sizes"),
        *[([shape(label=f"{HIDDEN}{sign}")], {}, "wrong_type") for sign in "\0\x07\x1b\x7f\x85\ud800\udfff"],
        ([], {"imageHeight": int("9" * 4300)}, "wrong_type"),
        ([shape(POINTS[:2], kind="mask") | {"mask": HIDDEN}], {}, "mask_unreadable"),
        ([shape([[9, 9], [12, 11]], kind="mask") | {"mask": PNG}], {}, "polygon_outside"),
        ([shape(POINTS[:2], kind="mask") | {"mask": PNG}], {"imageHeight": None, "imageWidth": None}, "wrong_type"),
        ([shape([[1, 1], [4, 5]], kind="mask") | {"mask": PNG}], {"imageHeight": 10**7}, "label_too_large"),
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
