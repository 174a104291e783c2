import numpy as np
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, SQUARE, codes, write_image, write_json, write_mask

TRIANGLE = [0, 0, 5, 0, 5.5, 5]
IMAGE = f"images/{HIDDEN}_1.jpg"


def answer(text):
    return [{"from": "human", "value": "<p>not this</p>"}, {"from": "gpt", "value": text}]


def guide(*polygons, **fields):
    return {"image": IMAGE, "mask": [{"segmentation": [polygon]} for polygon in polygons], **fields}


def lists(mask, **fields):
    return {"image": IMAGE, "mask": mask, **fields}


@pytest.fixture
def read_items(tmp_path, read):
    """Reads a list whose items may leave their image to be `IMAGE` with their own number."""

    def read_them(*items):
        for number, item in enumerate(items):
            if isinstance(item, dict) and item.get("image") == IMAGE:
                item["image"] = f"images/{HIDDEN}_{number}.jpg"
                write_image(tmp_path / item["image"])
        write_json(tmp_path / "annotations.json", list(items))
        return read()

    return read_them


@pytest.mark.parametrize(
    ("item", "layout", "objects"),
    [
        (lists([SQUARE, TRIANGLE], text=["left", "right"]), "flat", {"left": [SQUARE], "right": [TRIANGLE]}),
        (lists([SQUARE, TRIANGLE], text=["left", " left "]), "flat", {"left": [SQUARE, TRIANGLE]}),
        (lists([SQUARE]), "flat", {"vessels": [SQUARE]}),
        (lists([[[0, 0], [5, 0], [5.5, 5]]], text=["left"]), "flat", {"left": [TRIANGLE]}),
        (
            lists([[SQUARE], [TRIANGLE, SQUARE]], text=["left", "right"]),
            "nested",
            {"left": [SQUARE], "right": [TRIANGLE, SQUARE]},
        ),
        (lists([[[[0, 0], [5, 0], [5.5, 5]]]], text=["left"]), "nested", {"left": [TRIANGLE]}),
        (lists([SQUARE, TRIANGLE], text=["all"]), "single_text", {"all": [SQUARE, TRIANGLE]}),
        (lists([SQUARE, TRIANGLE], text="all"), "single_text", {"all": [SQUARE, TRIANGLE]}),
        (guide(SQUARE, TRIANGLE), "guide", {"vessels": [SQUARE, TRIANGLE]}),
        (guide(SQUARE, conversations=answer("[SEG]")), "guide", {"vessels": [SQUARE]}),
        (guide(SQUARE, conversations=answer("<p>left</p>[SEG]")), "guide", {"left": [SQUARE]}),
    ],
)
def test_each_layout_gives_the_same_objects(read_items, item, layout, objects):
    source = read_items(item)
    assert source.layouts == {layout: 1}
    (record,) = source.records
    assert list(record.label.objects) == list(objects)
    for phrase, polygons in objects.items():
        for shape, polygon in zip(record.label.objects[phrase], polygons, strict=True):
            np.testing.assert_equal(shape, np.reshape(polygon, (-1, 2)).astype(float))


def test_items_of_one_file_may_differ_and_are_counted_by_layout(read_items):
    source = read_items(guide(SQUARE), lists([SQUARE]), guide(SQUARE), lists([[SQUARE]]), "no item")
    assert source.layouts == {"guide": 2, "flat": 1, "nested": 1, "unrecognised": 1}
    assert [record.index for record in source.records] == [0, 1, 2, 3]


def test_a_string_in_place_of_a_list_is_one_text_and_is_told(read_items):
    source = read_items(lists([SQUARE], text="left artery"), lists([SQUARE], text=["left artery"]))
    first, second = (record.label for record in source.records)
    assert [finding.code for finding in first.findings] == ["text_is_string"]
    assert second.findings == ()
    assert list(first.objects) == list(second.objects) == ["left artery"]


def test_the_size_of_an_item_is_kept(read_items):
    source = read_items(lists([SQUARE], height=800, width=640), lists([SQUARE]))
    assert [record.label.size for record in source.records] == [(800, 640), None]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (guide(SQUARE, [1, 1, 2, 2]), "short_polygon"),
        (lists([SQUARE, [3, 3]], text=["a", "b"]), "short_polygon"),
        (lists([[SQUARE, [3, 3]]], text=["a"]), "short_polygon"),
        (lists([[[1, 1], [9, 9]]], text=["a"]), "short_polygon"),
        (lists([[]], text=["a"]), "short_polygon"),
        (guide(SQUARE[:-1]), "odd_polygon"),
        (lists([SQUARE[:-1]], text=["a"]), "odd_polygon"),
        (lists([[SQUARE], []], text=["a", "b"]), "no_polygons"),
        (guide(HIDDEN), "wrong_type"),
        (guide([1, 1, 9, 1, 9, float("nan")]), "wrong_type"),
        (lists([[1, 1, 9, 1, 9, 10**400]]), "wrong_type"),
        (lists([[1, 1, 9, 1, 9, True]]), "wrong_type"),
        (lists([["1", "1", "9", "1", "9", "9"]]), "wrong_type"),
        (lists([SQUARE, [SQUARE]]), "wrong_type"),
        (lists([SQUARE, None]), "wrong_type"),
        (lists(HIDDEN), "wrong_type"),
        ({"image": IMAGE}, "wrong_type"),
        ({"mask": [SQUARE]}, "wrong_type"),
        (HIDDEN, "wrong_type"),
        (lists([SQUARE], height=12), "wrong_type"),
        (lists([SQUARE], height=0, width=12), "wrong_type"),
        (lists([SQUARE], height="12 px", width=12), "wrong_type"),
        (lists([SQUARE, SQUARE, SQUARE], text=["a", "b"]), "text_count"),
        (lists([SQUARE, SQUARE], text=[]), "text_count"),
        (lists([[SQUARE], [SQUARE]], text=HIDDEN), "text_count"),
        (lists([[SQUARE], [SQUARE]], text=[HIDDEN]), "text_count"),
        (lists([SQUARE], text=[" "]), "empty_text"),
        (lists([SQUARE], text=""), "empty_text"),
        (lists([SQUARE], text=[7]), "wrong_type"),
        (lists([SQUARE], text=None), "wrong_type"),
        (guide(SQUARE, conversations=answer(f"<p>{HIDDEN}</p><p>roe</p>")), "several_phrases"),
        (guide(SQUARE, conversations=HIDDEN), "wrong_type"),
    ],
)
def test_a_wrong_item_is_quarantined_alone_and_its_text_not_repeated(read_items, wrong, code):
    source = read_items(guide(SQUARE), wrong, guide(SQUARE))
    assert [record.index for record in source.records] == [0, 2]
    assert (source.quarantined[0].index, source.quarantined[0].code) == (1, code)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/home/{HIDDEN}/a.jpg", "path_outside"),
        (f"C:\\{HIDDEN}\\a.jpg", "path_outside"),
        (f"s3://{HIDDEN}/a.jpg", "path_outside"),
        (f"images/../../{HIDDEN}.jpg", "path_outside"),
        (f"images/{HIDDEN}\0.jpg", "image_missing"),
        (f"{HIDDEN}.jpg", "image_missing"),
        (".", "image_missing"),
        ("annotations.json", "image_format"),
        (" ", "wrong_type"),
        (7, "wrong_type"),
    ],
)
def test_a_wrong_path_is_quarantined(read_items, path, code):
    source = read_items(guide(SQUARE), {"image": path, "mask": [SQUARE]})
    assert codes(source) == {code: 1}
    assert len(source.records) == 1


def test_an_image_named_twice_is_quarantined_each_time(tmp_path, read):
    write_image(tmp_path / IMAGE)
    write_image(tmp_path / "images/b.jpg")
    spellings = [IMAGE, f"images/../{IMAGE}", f"./images//{HIDDEN}_1.jpg", f"images\\{HIDDEN}_1.jpg", "images/b.jpg"]
    write_json(tmp_path / "annotations.json", [{"image": path, "mask": [SQUARE]} for path in spellings])
    source = read()
    assert codes(source) == {"path_twice": 4}
    assert [record.index for record in source.records] == [4]


def test_an_image_is_found_by_its_file_name_if_that_is_unique_below_the_list(tmp_path, read):
    for name in ("train/images/a.jpg", "train/x/b.jpg", "train/y/b.jpg", "val/images/c.jpg", "train/masks/a.jpg"):
        write_image(tmp_path / name)
    items = [{"image": name, "mask": [SQUARE]} for name in ("a.jpg", "b.jpg", "c.jpg", "y/b.jpg", "images/c.jpg")]
    write_json(tmp_path / "train/annotations.json", items)
    source = read()
    assert [record.name for record in source.records] == ["train/images/a.jpg", "train/y/b.jpg"]
    assert codes(source) == {"image_ambiguous": 1, "image_missing": 2, "orphan_image": 2}


def test_a_list_in_a_folder_of_labels_finds_the_images_beside_that_folder(tmp_path, read):
    write_image(tmp_path / "images/a.jpg")
    write_json(tmp_path / "annotations/train.json", [{"image": "images/a.jpg", "mask": [SQUARE]}])
    assert [record.name for record in read().records] == ["images/a.jpg"]


def test_unicode_forms_of_a_name_match(tmp_path, read):
    write_image(tmp_path / "images/Mu\u0308ller_1.jpg")  # as macOS stores it
    write_json(tmp_path / "annotations.json", [{"image": "images/M\u00fcller_1.jpg", "mask": [SQUARE]}])
    (record,) = read().records
    assert record.name == "images/M\u00fcller_1.jpg"
    assert record.image_uri == str(tmp_path / "images/Mu\u0308ller_1.jpg")


def test_mask_images_of_the_same_stems_come_along_and_are_no_orphans(tmp_path, read):
    for stem in ("a", "b", "c"):
        write_image(tmp_path / f"images/{stem}.jpg")
    for name in ("masks/a.png", "masks/b_mask.png", "masks/c.png", "masks/c_mask.png", f"masks/{HIDDEN}.png"):
        write_mask(tmp_path / name)
    write_json(
        tmp_path / "annotations.json", [{"image": f"images/{stem}.jpg", "mask": [SQUARE]} for stem in ("a", "b", "c")]
    )
    source = read()
    uris = [record.mask_uri for record in source.records]
    assert uris == [str(tmp_path / "masks/a.png"), str(tmp_path / "masks/b_mask.png"), None]
    assert codes(source) == {"orphan_label": 1}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"images": [{}], "annotations": [], HIDDEN: 1}, "mapping of 3 keys with the fields images, annotations and 1"),
        ([{"image": HIDDEN, "mask": {"a": 1}, "text": ["x"]}], "a list of 1 items .* mask a dict"),
        ([], "a list with 0 items"),
        (HIDDEN, "a str"),
    ],
)
def test_another_layout_is_refused_with_what_was_found(tmp_path, content, found):
    write_json(tmp_path / "annotations.json", content)
    with pytest.raises(UserError, match=found) as caught:
        read_source(str(tmp_path), OPTIONS)
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize("text", [f'[{{"image": "{HIDDEN}', "[" * 100_000, "[" + "1" * 5000 + "]", "\udcff"])
def test_a_broken_annotations_json_is_refused(tmp_path, text):
    (tmp_path / "annotations.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="is not JSON") as caught:
        read_source(str(tmp_path), OPTIONS)
    assert HIDDEN not in str(caught.value)
