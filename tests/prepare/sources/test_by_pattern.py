"""Sources that are read by `label_pattern`."""

import re
import shlex
from dataclasses import replace

import pytest
import yaml

from sa2va_ray.config import UserError
from sa2va_ray.prepare.label_pattern import LabelPattern
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_json, write_mask
from tests.prepare.sources.test_mask_images import read_label


def read_by(folder, pattern):
    source = read_source(str(folder), replace(OPTIONS, label_pattern=LabelPattern(pattern)))
    assert HIDDEN.lower() not in f"{source.quarantined}{source.notes}".lower()
    return source


def test_masks_of_any_name_find_their_images(tmp_path):
    for stem in ("a", "b", HIDDEN):
        write_image(tmp_path / f"raw/{stem}.jpg")
    for stem in ("a", "b"):
        write_mask(tmp_path / f"drawn/{stem}_vessel.PNG")
    source = read_by(tmp_path, "drawn/{stem}_vessel.PNG")
    assert source.layouts == {"label_pattern": 2}
    assert [record.name for record in source.records] == ["raw/a.jpg", "raw/b.jpg"]
    assert [record.label.uri for record in source.records] == [f"{tmp_path}/drawn/{s}_vessel.PNG" for s in "ab"]
    (lonely,) = source.quarantined
    assert (lonely.index, lonely.code) == (2, "orphan_image")
    assert "2 of 3 images have the label that `label_pattern` names" in lonely.reason
    assert source.notes == ["2 of 3 images have the label that `label_pattern` names."]


def test_who_has_labels_of_other_names_is_shown_a_pattern_as_it_is_typed(tmp_path):
    write_image(tmp_path / "masks_of_all/a-vessel.png")
    with pytest.raises(UserError, match="none of the layouts") as refused:
        read_source(str(tmp_path), OPTIONS)
    (typed,) = re.findall(r"'label_pattern=.*?'", str(refused.value))
    (argument,) = shlex.split(typed)
    assert LabelPattern(yaml.safe_load(argument.removeprefix("label_pattern="))).label_of("a/b.png")


def test_what_is_on_neither_side_is_left_and_counted(tmp_path):
    write_image(tmp_path / "images/21_training.tif")
    write_mask(tmp_path / "manual/21_manual1.gif")
    write_mask(tmp_path / "manual/21_manual2.gif")
    write_json(tmp_path / "annotations.json", {"other": "things"})
    source = read_by(tmp_path, "images/{id}_*.tif -> manual/{id}_manual1.gif")
    assert (len(source.records), source.quarantined) == (1, [])
    assert source.notes[1] == "1 image file(s) are on neither side of `label_pattern`, and left."


def test_labels_may_be_of_labelme(tmp_path):
    write_image(tmp_path / "p1/images/a.png")
    shape = {"label": "artery", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    write_json(tmp_path / "p1/drawn/a.json", {"shapes": [shape]})
    (record,) = read_by(tmp_path, "{parent}/drawn/{stem}.json").records
    assert list(read_label(record).objects) == ["artery"]


def test_one_label_of_two_images_is_not_guessed(tmp_path):
    for folder in ("p1", "p2"):
        write_image(tmp_path / f"{folder}/a.jpg")
    write_mask(tmp_path / "labels/a.png")
    assert codes(read_by(tmp_path, "labels/{stem}.png")) == {"ambiguous_pair": 2}


@pytest.mark.parametrize("pattern", ["labels/{stem}.png", "{folder}/{stem}.jpg", "../{stem}.png"])
def test_a_pattern_that_finds_nothing_is_told_with_numbers_and_an_example(tmp_path, pattern):
    write_image(tmp_path / f"images/{HIDDEN}.jpg")
    write_mask(tmp_path / f"masks/{HIDDEN}.png")
    with pytest.raises(UserError, match=r"0 of \d images have the label.*2 image file.*p7/images/im7\.png") as caught:
        read_by(tmp_path, pattern)
    assert HIDDEN not in str(caught.value)
