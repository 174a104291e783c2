"""Exports of Label Studio: two that its version 1.23.2 wrote (tests/fixtures/label_studio), and such as go wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sa2va_ray.images.brush_rle import mask_to_brush_rle
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.prepare.checks.polygons import draw_annotation
from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_json

FIXTURES = Path(__file__).parents[3] / "fixtures/label_studio"
H, W = 48, 64
DRAWN = np.zeros((H, W), bool)  # what the robot drew with the brush in the first task: with a hole
DRAWN[5:30, 10:50] = DRAWN[40:44, 2:60] = True
DRAWN[10:20, 20:35] = False
SIZE = {"original_height": H, "original_width": W, "to_name": "img"}
VESSEL = {"polygonlabels": ["vessel"]}
PERCENT = [[10, 10], [50, 10], [50, 50]]


def polygon(**fields):
    return {"type": "polygonlabels", "id": "p", **SIZE, "value": {"points": PERCENT, **VESSEL}, **fields}


def brush(mask, **fields):
    value = {"format": "rle", "rle": mask_to_brush_rle(mask), "brushlabels": ["vessel"]}
    return {"type": "brushlabels", "id": "b", **SIZE, "value": value, **fields}


def task(*results, **fields):
    data = {"image": f"/data/upload/3/1a2b3c4d-{HIDDEN}_frame_1.png"}
    return {"id": 1, "data": data, "annotations": [{"result": list(results)}], "predictions": [], **fields}


@pytest.fixture
def read_task(tmp_path, read):
    """Reads one task, whose image is there as it was before it was uploaded."""

    def read_it(one):
        write_image(tmp_path / f"images/{HIDDEN}_frame_1.png", (H, W))
        write_json(tmp_path / "result.json", [one])
        source = read()
        assert source.layouts == {"label_studio": 1}
        return source

    return read_it


@pytest.fixture
def draw(read_task):
    def draw_it(*results):
        (record,) = read_task(task(*results)).records
        return draw_annotation(record.label, H, W, None)[0]

    return draw_it


def test_an_upload_is_found_as_it_was_spelt_before(tmp_path, read):
    """Label Studio writes spaces as underscores, and leaves out brackets and the like."""
    write_image(tmp_path / f"images/{HIDDEN} (left)_frame_1.png", (H, W))
    one = task(polygon(), data={"image": f"/data/upload/3/1a2b3c4d-{HIDDEN}_left_frame_1.png"})
    write_json(tmp_path / "result.json", [one])
    assert [record.name for record in read().records] == [f"images/{HIDDEN} (left)_frame_1.png"]
    write_image(tmp_path / f"images/{HIDDEN}_[left]_frame_1.png", (H, W))
    assert codes(read())["image_ambiguous"] == 1


def of_fixture(tmp_path, name):
    tasks = json.loads((FIXTURES / "export.json").read_text())
    for each in tasks:
        write_image(tmp_path / "media" / Path(each["data"]["image"]).name, (H, W))
    (tmp_path / "project-1.json").write_bytes((FIXTURES / name).read_bytes())
    source = read_source(str(tmp_path), OPTIONS)
    assert "Beispiel" not in f"{source.quarantined}{source.records}"
    return source


@pytest.mark.parametrize("name", ["export.json", "export_min.json"])
def test_an_export_of_the_server(tmp_path, name):
    source = of_fixture(tmp_path, name)
    names = [record.plain_name for record in source.records]
    assert names == [f"media/Anna_Beispiel_frame_{frame}.png" for frame in (1, 2, 4)]
    first, second, third = (record.label for record in source.records)
    brush_rle, polygon_drawn = first.objects["vessel"]
    np.testing.assert_array_equal(rle_to_mask(brush_rle), DRAWN)
    np.testing.assert_allclose(polygon_drawn, [[5.9, 4.3], [31.5, 4.3], [31.5, 28.3], [5.9, 28.3]])
    assert {phrase: len(shapes) for phrase, shapes in second.objects.items()} == {"catheter": 2, "vessel": 1}
    assert list(third.objects) == ["vessel"]
    assert [label.is_exact for label in (first, second, third)] == [True, True, False]
    assert "keypoint 1" in first.findings[0].detail


def test_what_is_left_out_of_an_export_is_told(tmp_path):
    source = of_fixture(tmp_path, "export.json")
    assert codes(source) == {"several_annotators": 1, "not_annotated": 2}
    assert source.notes == ["1 task(s) of Label Studio that were only skipped there are left out."]
    reasons = [each.reason for each in source.quarantined]
    assert "2 annotations" in reasons[0]
    assert "1 prediction(s), which are a model's" in reasons[1]
    assert [finding.code for record in source.records for finding in record.label.findings] == [
        "without_area",
        "cancelled",
    ]


def test_several_annotators_of_json_min_are_one_item(tmp_path):
    source = of_fixture(tmp_path, "export_min.json")
    assert source.layouts == {"label_studio": 6}
    assert codes(source) == {"several_annotators": 1, "not_annotated": 2, "orphan_image": 1}


def test_what_was_only_skipped_is_left_out_with_its_image_or_without(tmp_path, read):
    skipped = [{"result": [polygon()], "was_cancelled": True}, {"result": [], "skipped": True}]
    frames = [task(polygon()), task(annotations=skipped), task(annotations=skipped)]
    for frame, one in enumerate(frames):
        one["data"] = {"image": f"/data/upload/3/1a2b3c4d-{HIDDEN}_frame_{frame}.png"}
    write_json(tmp_path / "result.json", frames)
    for frame in (0, 1):
        write_image(tmp_path / f"images/{HIDDEN}_frame_{frame}.png", (H, W))
    source = read()
    assert (source.layouts, codes(source)) == ({"label_studio": 1}, {})
    assert [record.name for record in source.records] == [f"images/{HIDDEN}_frame_0.png"]
    assert source.notes == ["2 task(s) of Label Studio that were only skipped there are left out."]


def test_a_project_of_which_all_was_skipped_has_no_items(tmp_path, read):
    write_json(tmp_path / "result.json", [task(annotations=[{"result": [], "was_cancelled": True}])])
    source = read()
    assert (source.layouts, source.num_items) == ({}, 0)
    assert "1 task(s)" in source.notes[0]


SEVERAL = replace(OPTIONS, annotators="majority")


def by_annotator(who, *results):
    return {"result": list(results), "completed_by": who}


@pytest.fixture
def read_several(tmp_path):
    """Reads tasks of one image where several annotators are wanted."""

    def read_it(*entries):
        write_image(tmp_path / f"images/{HIDDEN}_frame_1.png", (H, W))
        write_json(tmp_path / "result.json", entries)
        return read_source(str(tmp_path), SEVERAL)

    return read_it


def test_each_of_several_annotators_is_read_where_the_config_says_so(read_several):
    wide = polygon(value={"points": [[0, 0], [100, 0], [100, 100]], **VESSEL})
    cancelled = {**by_annotator(5, polygon()), "was_cancelled": True}
    people = [by_annotator(3, polygon()), by_annotator({"id": 4, "email": "a@b"}, wide), cancelled]
    (record,) = read_several(task(annotations=people)).records
    labels = record.label.by_annotator
    assert list(labels) == ["label_studio/3", "label_studio/4"]
    assert [len(label.objects["vessel"]) for label in labels.values()] == [1, 1]
    assert [finding.code for finding in record.label.findings] == ["cancelled"]
    assert "a@b" not in repr(record)
    (record,) = read_several(task(annotations=people[:1])).records
    assert list(record.label.objects) == ["vessel"]
    own = {"annotation_id": 1, "id": 1, "image": f"{HIDDEN}_frame_1.png", "tag": [polygon()["value"] | SIZE]}
    (record,) = read_several(*({**own, "annotator": who} for who in (3, 4))).records
    assert list(record.label.by_annotator) == ["label_studio/3", "label_studio/4"]


@pytest.mark.parametrize("who", [3, " 3 ", None])
def test_several_annotations_of_one_annotator_are_refused(read_several, who):
    source = read_several(task(annotations=[by_annotator(who, polygon()), by_annotator(3, polygon())]))
    assert codes(source) == {"annotated_twice": 1}
    assert "2 annotations of 1 annotator(s)" in source.quarantined[0].reason


def test_several_annotators_are_refused_with_the_cure(read_task):
    source = read_task(task(annotations=[by_annotator(3, polygon()), by_annotator(4, polygon())]))
    assert codes(source) == {"several_annotators": 1}
    assert "say annotators=majority or annotators=staple" in source.quarantined[0].reason


def test_json_min_tells_regions_from_lists_of_the_task(read_task):
    own = {"annotator": 1, "annotation_id": 1, "id": 1, "image": f"{HIDDEN}_frame_1.png", "marks": [{"x": 1, "y": 2}]}
    (record,) = read_task(own | {"tag": [{"points": PERCENT, **SIZE, **VESSEL}]}).records
    assert [len(shapes) for shapes in record.label.objects.values()] == [1]
    assert record.label.findings == ()
    assert codes(read_task(own | {"tag": [{"vertices": PERCENT, **SIZE}]})) == {"shape_type": 1}
    assert codes(read_task(own | {"tag": [{"points": PERCENT, **VESSEL}]})) == {"label_sizes": 1}


def test_regions_of_a_label_are_united_and_labels_are_phrases(draw):
    other = polygon(id="q", value={"points": PERCENT, "polygonlabels": ["catheter", "wire"]})
    masks = draw(brush(DRAWN), polygon(), other)
    assert list(masks) == ["vessel", "catheter", "wire"]
    np.testing.assert_array_equal(masks["catheter"], masks["wire"])
    np.testing.assert_array_equal(masks["vessel"], DRAWN | masks["wire"])


def test_the_labels_of_a_region_may_stand_in_a_result_of_their_own(draw):
    value = {"format": "rle", "rle": mask_to_brush_rle(DRAWN)}
    masks = draw(
        {"type": "brush", "id": "b", **SIZE, "value": value},
        {"type": "labels", "id": "b", **SIZE, "value": {**value, "labels": ["vein"]}},
    )
    assert list(masks) == ["vein"]
    np.testing.assert_array_equal(masks["vein"], DRAWN)


def test_without_any_label_the_config_says_what_it_is(draw):
    assert list(draw(polygon(value={"points": PERCENT}))) == [OPTIONS.phrase]


def test_a_rectangle_turns_around_its_corner(draw):
    value = {"x": 50, "y": 50, "width": 25, "height": 25, "rotation": 90, "rectanglelabels": ["vessel"]}
    mask = draw({**polygon(), "type": "rectanglelabels", "value": value})["vessel"]
    rows, columns = np.nonzero(mask)
    # 16 x 12 px at (32, 24) are 12 x 16 px after a quarter turn clockwise, to the left of the corner and below.
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (20, 32, 24, 40)


def test_an_ellipse_turns_around_its_centre(draw):
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5, "rotation": 90, "ellipselabels": ["vessel"]}
    mask = draw({**polygon(), "type": "ellipselabels", "value": value})["vessel"]
    assert np.pi * 16 * 6 <= mask.sum() <= np.pi * 16.5 * 6.5  # the rasteriser fills boundary pixels, too
    assert np.ptp(np.nonzero(mask)[0]) == pytest.approx(32, abs=1)


def test_labels_that_are_ignored(tmp_path):
    write_image(tmp_path / f"{HIDDEN}_frame_1.png", (H, W))
    write_json(tmp_path / "result.json", [task(polygon(), brush(DRAWN, id="b"))])
    options = OPTIONS.__class__("vessels", None, 10_000, ignore_labels=frozenset({"vessel"}))
    (record,) = read_source(str(tmp_path), options).records
    assert record.label.objects == {}
    assert [finding.code for finding in record.label.findings] == ["label_ignored"]


@pytest.mark.parametrize(
    "path",
    [
        f"/data/upload/3/1a2b3c4d-{HIDDEN}_frame_1.png",
        f"/data/local-files/?d=disk/images/{HIDDEN}_frame_1.png",
        f"s3://bucket/images/{HIDDEN}_frame_1.png",
        f"https://host/a/{HIDDEN}_frame_1.png?X-Amz-Signature=1",
        f"{HIDDEN}_frame_1.png",
    ],
)
def test_images_are_found_by_all_that_label_studio_calls_them(read_task, path):
    source = read_task(task(polygon(), data={"photo": path, "hospital": "one", "number": 7}))
    assert [record.name for record in source.records] == [f"images/{HIDDEN}_frame_1.png"]


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (task(polygon(), polygon(to_name="other")), "several_images"),
        (task(polygon(), data={"left": "a.png", "right": "b.png"}), "several_images"),
        (task(polygon(item_index=0)), "several_images"),
        (task(polygon(item_index=[0])), "several_images"),
        (task(polygon(), data={"text": "a", "title": "b"}), "image_missing"),
        (task(polygon(), data={"image": "gone.png"}), "image_missing"),
        (task(polygon(), data={"image": "/data/upload/3/1a2b3c4d-gone.png"}), "image_missing"),
        (task(polygon(), data={"image": "s3://bucket/gone.png"}), "image_missing"),
        (task(polygon(), data={"image": "/data/local-files/?d=gone.png"}), "image_missing"),
        (task(brush(DRAWN[:-1])), "brush_size"),
        (task(brush(DRAWN), polygon(original_width=W + 1)), "label_sizes"),
        (task(polygon(original_width=None, original_height=None)), "label_sizes"),
        (task(polygon(image_rotation=90)), "image_turned"),
        (task(polygon(value={"points": PERCENT, "closed": False, **VESSEL})), "shape_type"),
        (task(polygon(value={"points": PERCENT[:2], **VESSEL})), "short_polygon"),
        (task(polygon(value={"points": [[HIDDEN, 1]] * 3, **VESSEL})), "wrong_type"),
        (task(polygon(value={"points": PERCENT, "polygonlabels": HIDDEN})), "wrong_type"),
        (task(polygon(value={"points": PERCENT, "polygonlabels": [" "]})), "empty_text"),
        (task(polygon(type="rectangle", value={"x": 1, "y": HIDDEN, "width": 3, "height": 3})), "wrong_type"),
        (task(polygon(type="ellipse", value={"x": 1, "y": 1, "radiusX": 0, "radiusY": 0})), "short_polygon"),
        (task(polygon(type="brush", value={"rle": HIDDEN})), "wrong_type"),
        (task(polygon(type="brush", value={"rle": [1, HIDDEN]})), "rle_broken"),
        (task(polygon(type=HIDDEN)), "shape_type"),
        (task(polygon(type="vectorlabels")), "shape_type"),
        (task(polygon(type="keypointlabels", value={"x": 1, "y": 1})), "no_area"),
        (task(polygon(), polygon(id="q", value={"points": PERCENT})), "no_label"),
        (task(HIDDEN), "wrong_type"),
        (task(annotations=[{"result": HIDDEN}]), "wrong_type"),
        (task(annotations=[7]), "label_studio_form"),
        (task(annotations=[]), "not_annotated"),
        ({"id": 1, "data": {}, "completions": []}, "label_studio_form"),
        ({"id": 1, "data": {}, "predictions": [{"result": [polygon()]}]}, "label_studio_form"),
    ],
)
def test_what_cannot_be_read_is_told_without_its_words(tmp_path, read, one, code):
    write_image(tmp_path / f"images/{HIDDEN}_frame_1.png", (H, W))
    write_json(tmp_path / "result.json", [one])
    assert codes(read())[code] == 1


@pytest.mark.parametrize(
    "content",
    [
        {"id": 4, "result": [polygon()], "task": {"id": 1, "data": {}}},  # of a target storage
        {"tasks": [task(polygon())], "total": 1, "total_annotations": 1},  # of the API
        task(polygon()),
    ],
)
def test_another_form_is_one_message(tmp_path, read, content):
    write_image(tmp_path / f"images/{HIDDEN}_frame_1.png", (H, W))
    write_json(tmp_path / "task.json", content)
    source = read()
    assert codes(source) == {"label_studio_form": 1, "orphan_image": 1}
    assert "Export the project as JSON or JSON-min" in source.quarantined[0].reason


def test_a_brush_wants_its_very_image(read_task):
    """A polygon, in percent, may be laid over a smaller copy of the image."""
    (record,) = read_task(task(brush(DRAWN))).records
    with pytest.raises(Rejected) as refused:
        draw_annotation(record.label, H // 2, W // 2, None)
    assert refused.value.code == "brush_size"
    (record,) = read_task(task(polygon())).records
    assert [each.code for each in draw_annotation(record.label, H // 2, W // 2, None)[2]] == ["size_rescaled"]
