"""Several classes in labels of every layout."""

from dataclasses import replace

import pytest

from sa2va_ray.prepare.classes import Classes
from sa2va_ray.prepare.records import LabelFile
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, SQUARE, write_image, write_json
from tests.prepare.sources.test_mask_images import read_label

CLASSES = Classes({"artery": ["A"], "vein": ["V"], "vessel": ["A", "V"], "ignore": ["unsure"]})
PAIRS = [[SQUARE[at], SQUARE[at + 1]] for at in range(0, 8, 2)]


def coco(labels):
    categories = [{"id": number, "name": label} for number, label in enumerate(labels)]
    drawn = [{"image_id": 1, "category_id": number, "segmentation": [SQUARE]} for number in range(len(labels))]
    images = [{"id": 1, "file_name": "a.png", "height": 12, "width": 16}]
    return {"images": images, "annotations": drawn, "categories": categories}


def labelme(labels):
    return {"shapes": [{"label": label, "points": PAIRS} for label in labels]}


def listed(labels):
    return [{"image": "a.png", "mask": [SQUARE] * len(labels), "text": labels}]


def label_studio(labels):
    percent = {"points": [[10, 10], [60, 10], [60, 70]], "closed": True}
    results = [
        {
            "id": f"r{number}",
            "type": "polygonlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": 16,
            "original_height": 12,
            "value": {**percent, "polygonlabels": [label]},
        }
        for number, label in enumerate(labels)
    ]
    annotation = {"id": 1, "was_cancelled": False, "result": results}
    return [{"id": 7, "data": {"image": "a.png"}, "annotations": [annotation], "predictions": []}]


LAYOUTS = {"a.json": labelme, "coco.json": coco, "annotations.json": listed, "export.json": label_studio}


def read(folder, name, labels, **options):
    write_image(folder / "a.png")
    write_json(folder / name, LAYOUTS[name](labels))
    return read_source(str(folder), replace(OPTIONS, classes=CLASSES, **options))


def annotation_of(source):
    (record,) = source.records
    return read_label(record) if isinstance(record.label, LabelFile) else record.label


@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_become_the_phrases_of_their_classes(name, tmp_path):
    annotation = annotation_of(read(tmp_path, name, ["A", "unsure", "V", "fovea"], ignore_labels=frozenset({"fovea"})))
    assert {phrase: len(shapes) for phrase, shapes in annotation.objects.items()} == {
        "artery": 1,
        "vessel": 2,
        "vein": 1,
    }
    assert len(annotation.ignored) == 1
    assert [finding.code for finding in annotation.findings] == ["label_ignored"]
    annotation = annotation_of(read(tmp_path, name, ["V", "V"]))
    assert {phrase: len(shapes) for phrase, shapes in annotation.objects.items()} == {"vein": 2, "vessel": 2}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_label_that_no_class_lists_costs_the_image_and_is_not_repeated(name, tmp_path):
    source = read(tmp_path, name, ["A", HIDDEN])
    if name == "a.json":
        with pytest.raises(Exception, match="label_unlisted") as caught:
            annotation_of(source)
        assert HIDDEN not in str(caught.value)
    else:
        (rejected,) = source.quarantined
        assert (rejected.code, HIDDEN in rejected.reason) == ("label_unlisted", False)
