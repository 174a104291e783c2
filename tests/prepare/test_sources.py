import json

import numpy as np
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.sources import read_source

SQUARE = [1, 1, 9, 1, 9, 9, 1, 9]


def item(image="images/a_frame_1.jpg", polygons=(SQUARE,), **fields):
    return {"image": image, "mask": [{"segmentation": [polygon]} for polygon in polygons], **fields}


def answer(text):
    return [{"from": "human", "value": "<p>not this</p>"}, {"from": "gpt", "value": text}]


def read(folder, content):
    (folder / "annotations.json").write_text(json.dumps(content))
    return read_source(str(folder), "vessels")


def test_all_polygons_of_an_image_are_one_object(tmp_path):
    source = read(tmp_path, [item(polygons=[SQUARE, [0, 0, 5, 0, 5.5, 5]])])
    (record,) = source.records
    assert (source.layout, source.num_items, record.index) == ("guide", 1, 0)
    assert record.image == tmp_path / "images/a_frame_1.jpg"
    np.testing.assert_equal(record.objects["vessels"], [np.reshape(SQUARE, (4, 2)), [[0, 0], [5, 0], [5.5, 5]]])


def test_the_phrase_comes_from_the_answer_where_it_has_one(tmp_path):
    source = read(
        tmp_path, [item(conversations=answer("<p>left artery</p>[SEG]")), item(conversations=answer("[SEG]"))]
    )
    assert [list(record.objects) for record in source.records] == [["left artery"], ["vessels"]]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (item(polygons=[SQUARE, [1, 1, 2, 2]]), "short_polygon"),
        (item(polygons=[SQUARE[:-1]]), "odd_polygon"),
        (item(polygons=[]), "no_objects"),
        (item(polygons=["1,1,9,1,9,9"]), "wrong_type"),
        (item(polygons=[[1, 1, 9, 1, 9, float("nan")]]), "wrong_type"),
        (item(image="/doe/a.jpg"), "path_outside"),
        (item(image="images/../../doe.jpg"), "path_outside"),
        (item(image=""), "wrong_type"),
        ({"image": "doe.jpg", "mask": "[[1, 1]]"}, "wrong_type"),
        ({"image": "doe.jpg", "mask": [[SQUARE]], "text": ["doe"]}, "wrong_type"),
        ({"mask": [{"segmentation": [SQUARE]}]}, "wrong_type"),
        (item(conversations=answer("<p>doe</p><p>roe</p>")), "several_phrases"),
        (item(conversations="doe"), "wrong_type"),
        ("doe", "wrong_type"),
    ],
)
def test_a_wrong_item_is_quarantined_alone_and_its_text_not_repeated(tmp_path, wrong, code):
    source = read(tmp_path, [item(), wrong, item()])
    assert [record.index for record in source.records] == [0, 2]
    assert [(each.index, each.code) for each in source.quarantined] == [(1, code)]
    assert "doe" not in source.quarantined[0].reason


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            {"images": [], "annotations": [], "doe": 1},
            "mapping of 3 keys with the fields images, annotations and 1 other",
        ),
        ([{"image": "doe.jpg", "mask": [SQUARE], "text": ["x"]}], "a list of 1 items .* mask a list of list"),
        ([], "a list with 0 items"),
        ("doe", "a str"),
    ],
)
def test_another_layout_is_refused_with_what_was_found(tmp_path, content, found):
    with pytest.raises(UserError, match=found) as caught:
        read(tmp_path, content)
    assert "Read today" in str(caught.value)
    assert "doe" not in str(caught.value)


def test_a_folder_without_annotations_is_refused_with_counts_by_kind(tmp_path):
    for name in ("doe.jpg", "sub/roe.jpeg", "sub/doe.dcm", "roe.doe"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"1 DICOM file\(s\), 2 JPEG file\(s\), 1 other") as caught:
        read_source(str(tmp_path), "vessels")
    assert "doe" not in str(caught.value)


def test_a_missing_folder_and_cut_off_json_name_the_key(tmp_path):
    with pytest.raises(UserError, match="`source` is not a folder"):
        read_source(str(tmp_path / "doe"), "vessels")
    (tmp_path / "annotations.json").write_text('[{"image": "doe')
    with pytest.raises(UserError, match="is not JSON"):
        read_source(str(tmp_path), "vessels")
