"""Folders with the names of the files that the data sets have."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.config import UserError
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.prepare.classes import Classes
from sa2va_ray.prepare.identity.pseudonyms import Pseudonyms
from sa2va_ray.prepare.records import Rejected, SeveralLabels
from sa2va_ray.prepare.sources import read_source
from sa2va_ray.prepare.sources.datasets.table import DATA_SETS, DataSet
from tests.prepare.sources.conftest import OPTIONS, codes, write_image, write_json, write_mask
from tests.prepare.sources.test_mask_images import read_label

DRIVE = {
    "images": [f"training/images/{n}_training.tif" for n in (21, 22)] + [f"test/images/0{n}_test.tif" for n in (1, 2)],
    "labels": [f"training/1st_manual/{n}_manual1.gif" for n in (21, 22)]
    + [f"test/1st_manual/0{n}_manual1.gif" for n in (1, 2)],
    "others": [f"test/2nd_manual/0{n}_manual2.gif" for n in (1, 2)],
    "views": [f"training/mask/{n}_training_mask.gif" for n in (21, 22)]
    + [f"test/mask/0{n}_test_mask.gif" for n in (1, 2)],
    "patients": ["01", "02", "21", "22"],
}
STARE = {
    "images": ["stare-images/im0001.ppm", "stare-images/im0319.ppm"],
    "labels": ["labels-ah/im0001.ah.ppm", "labels-ah/im0319.ah.ppm"],
    "others": ["labels-vk/im0001.vk.ppm", "labels-vk/im0319.vk.ppm"],
    "patients": ["im0001", "im0319"],
}
CHASE = {
    "images": ["Image_01L.jpg", "Image_01R.jpg", "Image_14L.jpg"],
    "labels": ["Image_01L_1stHO.png", "Image_01R_1stHO.png", "Image_14L_1stHO.png"],
    "others": ["Image_01L_2ndHO.png", "Image_01R_2ndHO.png", "Image_14L_2ndHO.png"],
    "patients": ["01", "01", "14"],
}
DCA1 = {"images": ["1.pgm", "134.pgm"], "labels": ["1_gt.pgm", "134_gt.pgm"], "patients": ["1", "134"]}
FIVES = {
    "images": ["test/Original/1_A.png", "train/Original/1_A.png", "train/Original/600_N.png"],
    "labels": ["test/Ground truth/1_A.png", "train/Ground truth/1_A.png", "train/Ground truth/600_N.png"],
    "patients": ["test/1", "train/1", "train/600"],
}
HRF = {
    "images": ["images/01_dr.JPG", "images/01_g.jpg", "images/02_h.jpg"],
    "labels": ["manual1/01_dr.tif", "manual1/01_g.tif", "manual1/02_h.tif"],
    "views": ["mask/01_dr_mask.tif", "mask/01_g_mask.tif", "mask/02_h_mask.tif"],
    "patients": ["01_dr", "01_g", "02_h"],
}
SETS = {"drive": DRIVE, "hrf": HRF, "stare": STARE, "chase_db1": CHASE, "dca1": DCA1, "fives": FIVES}


def write(folder, data_set):
    for name in data_set["images"]:
        write_image(folder / name)
    for name in [*data_set["labels"], *data_set.get("others", []), *data_set.get("views", [])]:
        write_mask(folder / name)


@pytest.mark.parametrize("below", ["", "downloads/"])
@pytest.mark.parametrize("name", SETS)
def test_a_data_set_is_known_by_the_names_of_its_files(name, below, tmp_path, read):
    files = SETS[name]
    write(tmp_path / below, files)
    (tmp_path / "README.txt").touch()
    source = read()
    assert source.layouts == {name: len(files["images"])}
    assert source.quarantined == []
    pairs = {record.image_uri: record.label.uri for record in source.records}
    expected = dict(zip(files["images"], files["labels"], strict=True))
    assert pairs == {f"{tmp_path}/{below}{image}": f"{tmp_path}/{below}{label}" for image, label in expected.items()}
    assert [record.patient for record in source.records] == files["patients"]
    notes = " ".join(source.notes)
    assert f"{name}: patients are told by the numbers in the names" in notes
    assert f"{len(files['others'])} label(s) of other observers" in notes if "others" in files else "other" not in notes
    views = {record.image_uri: record.field_of_view_uri for record in source.records}
    for image, view in zip(files["images"], files.get("views", [None] * len(files["images"])), strict=True):
        assert views[f"{tmp_path}/{below}{image}"] == (view and f"{tmp_path}/{below}{view}")
    label = read_label(source.records[0])
    np.testing.assert_array_equal(rle_to_mask(label.objects["vessels"][0])[2:5, 4:9], True)


@pytest.mark.parametrize("name", ["drive", "stare", "chase_db1"])
def test_other_observers_are_annotators_where_the_config_says_so(name, tmp_path):
    write(tmp_path, SETS[name])
    source = read_source(str(tmp_path), replace(OPTIONS, annotators="staple"))
    labels = {record.name: record.label for record in source.records}
    several = {image: label.by_annotator for image, label in labels.items() if isinstance(label, SeveralLabels)}
    assert len(labels) == len(SETS[name]["images"])
    assert len(several) == len(SETS[name]["others"])
    (first, second) = next(iter(several.values())).items()
    assert [first[0], second[0]] == [f"{name}/1", f"{name}/2"]
    assert first[1].uri == f"{tmp_path}/{SETS[name]['labels'][-2 if name == 'drive' else 0]}"
    assert second[1].uri == f"{tmp_path}/{SETS[name]['others'][0]}"
    assert f"{len(several)} label(s) of other observers are read beside the first one's" in " ".join(source.notes)


def test_two_labels_of_one_other_observer_are_not_guessed(tmp_path):
    write(tmp_path, STARE)
    write_mask(tmp_path / "copy/im0001.vk.ppm")
    assert codes(read_source(str(tmp_path), OPTIONS)) == {}
    assert codes(read_source(str(tmp_path), replace(OPTIONS, annotators="majority"))) == {"ambiguous_pair": 1}


def test_a_pattern_of_the_config_tells_the_patients(tmp_path):
    write(tmp_path, CHASE)
    source = read_source(str(tmp_path), replace(OPTIONS, patients_of_data_sets=False))
    assert [record.patient for record in source.records] == [None] * 3
    assert not any("patients are told" in note for note in source.notes)
    pseudonyms = Pseudonyms(b"key", r"Image_(?P<patient>\d\d)[LR]")
    assert len({pseudonyms.identify(record).patient_id for record in source.records}) == 2


def test_a_part_without_any_label_is_left_and_counted(tmp_path, read):
    """As DRIVE comes from its challenge."""
    write(tmp_path, {**DRIVE, "labels": DRIVE["labels"][:2], "others": []})
    source = read()
    assert (source.layouts, source.quarantined) == ({"drive": 2}, [])
    assert "drive: 2 image(s) of a part that has no labels left." in source.notes


def test_masks_of_the_field_of_view_alone_are_never_labels(tmp_path):
    write(tmp_path, {**DRIVE, "labels": [], "others": []})
    with pytest.raises(UserError, match=r"drive: 4 masks of the field of view.*4 image\(s\) of a part .* no labels"):
        read_source(str(tmp_path), OPTIONS)


def test_what_lacks_its_other_half_is_an_orphan(tmp_path, read):
    write(tmp_path, CHASE)
    write_image(tmp_path / "Image_02L.jpg")
    write_mask(tmp_path / "Image_03L_1stHO.png")
    assert codes(read()) == {"orphan_image": 1, "orphan_label": 1}


def test_two_files_of_one_number_are_not_paired(tmp_path, read):
    write(tmp_path, CHASE)
    write_image(tmp_path / "Image_01L.png")
    assert codes(read()) == {"ambiguous_pair": 2}


def test_two_data_sets_in_one_source_are_both_read(tmp_path, read):
    write(tmp_path / "DRIVE", DRIVE)
    write(tmp_path / "STARE", STARE)
    assert read().layouts == {"drive": 4, "stare": 2}


def test_files_that_fit_two_data_sets_are_not_guessed(tmp_path, monkeypatch):
    other = DataSet("eyes", re.compile(r"(?P<eye>Image_\d\d[LR])"), (re.compile(r"(?P<eye>Image_\d\d[LR])_1stHO"),))
    monkeypatch.setattr("sa2va_ray.prepare.sources.datasets.read.DATA_SETS", (*DATA_SETS, other))
    write(tmp_path, CHASE)
    with pytest.raises(UserError, match=r"6 file\(s\) of `source` fit .* chase_db1 and eyes.*label_pattern"):
        read_source(str(tmp_path), OPTIONS)


def test_beside_json_labels_a_data_set_is_not_looked_for(tmp_path, read):
    write(tmp_path, {"images": ["Image_01L.jpg"], "labels": ["Image_01L_1stHO.png"]})
    square = [1, 1, 9, 1, 9, 9, 1, 9]
    write_json(tmp_path / "annotations.json", [{"image": "Image_01L.jpg", "mask": [square]}])
    assert read().layouts == {"flat": 1}


def write_classes(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "artery": 1, "main_vein": 2, "ignore": 3},
        {"0": "background", "1": "artery", "2": "main_vein", "3": "ignore"},
        {"background": 0, "artery": [1], "main_vein": [2], "ignore": 3},
    ],
)
def test_nnunet(labels, tmp_path, read):
    top = tmp_path / "Dataset001_vessels"
    for case in ("p1_a", "p2_b"):
        write_image(top / f"imagesTr/{case}_0000.png", (2, 4))
        write_classes(
            top / f"labelsTr/{case}.png", [[0, 1, 2, 3], [0, 1, 0, 0]] if case == "p1_a" else [[0, 1], [1, 0]]
        )
    write_image(top / "imagesTs/p3_a_0000.png")
    write_json(top / "dataset.json", {"labels": labels, "channel_names": {"0": "R"}, "file_ending": ".png"})
    source = read()
    assert (source.layouts, source.quarantined) == ({"nnunet": 2}, [])
    assert "nnunet: 1 image(s) of a part that has no labels left." in source.notes
    first, second = (read_label(record) for record in source.records)
    assert {phrase: rle_to_mask(rles[0]).tolist() for phrase, rles in first.objects.items()} == {
        "artery": [[False, True, False, False], [False, True, False, False]],
        "main vein": [[False, False, True, False], [False] * 4],
    }
    assert [rle_to_mask(rle).sum() for rle in first.ignored] == [1]
    assert (list(second.objects), second.ignored) == (["artery"], ())
    pseudonyms = Pseudonyms(b"key", r"(?:.*/)?(?P<patient>[^_/]+)_[a-z]")
    assert len({pseudonyms.identify(record).patient_id for record in source.records}) == 2


def test_nnunet_with_regions_and_with_values_that_are_not_listed(tmp_path, read):
    write_image(tmp_path / "imagesTr/a_0000.png", (1, 4))
    write_classes(tmp_path / "labelsTr/a.png", [[0, 1, 2, 2]])
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "vessel": [1, 2], "vein": 2}})
    label = read_label(read().records[0])
    assert {phrase: rle_to_mask(rles[0]).sum() for phrase, rles in label.objects.items()} == {"vessel": 3, "vein": 2}
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "vein": 2}})
    with pytest.raises(Rejected, match=r"1 of 4 pixels .* that `labels` of dataset\.json does not list: 1\."):
        read_label(read().records[0])


def test_nnunet_without_a_mapping_of_labels_is_refused(tmp_path):
    write_image(tmp_path / "imagesTr/a_0000.png")
    write_mask(tmp_path / "labelsTr/a.png")
    for labels in (
        ["vessel"],
        {"vessel": "x"},
        {"vessel": 1.5},
        {" ": 1},
        {"_": 1},
        {"a": []},
        {"a": 1, "ignore": 0},
        {"1" * 5000: "a"},
        {"a": -1},
        {"a_b": 1, "A b": 2},
        {"\ud800": 1},
    ):
        write_json(tmp_path / "dataset.json", {"labels": labels})
        with pytest.raises(UserError, match=r"dataset\.json"):
            read_source(str(tmp_path), OPTIONS)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json in `source` is not JSON"):
        read_source(str(tmp_path), OPTIONS)


@pytest.mark.parametrize(
    "labels",
    [{"background": 1, "vessel": 2}, {"vessel": 0, "Background": 1}, {"1": "background"}, {"background_": [0, 1]}],
)
def test_nnunet_whose_background_is_not_0_is_refused(labels, tmp_path):
    """nnU-Net does the same. It was learnt as an object of that name."""
    write_image(tmp_path / "imagesTr/a_0000.png")
    write_mask(tmp_path / "labelsTr/a.png")
    write_json(tmp_path / "dataset.json", {"labels": labels})
    with pytest.raises(
        UserError, match=r"dataset\.json .* `background` the mask value (0, )?1, and in nnU-Net it is 0"
    ):
        read_source(str(tmp_path), OPTIONS)
    classes = Classes({"vessel": [255]})
    assert len(read_source(str(tmp_path), replace(OPTIONS, classes=classes)).records) == 1


@pytest.mark.parametrize("labels", [{}, {"background": 0}, {"vessel": 0}, {"background": 0, "Ignore": 1}])
def test_nnunet_without_an_object_is_refused(labels, tmp_path):
    """Every image was learnt as one without vessels."""
    write_image(tmp_path / "imagesTr/a_0000.png")
    write_mask(tmp_path / "labelsTr/a.png")
    write_json(tmp_path / "dataset.json", {"labels": labels})
    with pytest.raises(UserError, match=r"`labels` of dataset\.json .* names no object"):
        read_source(str(tmp_path), OPTIONS)


def test_nnunet_of_several_channels_is_quarantined(tmp_path, read):
    for channel in range(2):
        write_image(tmp_path / f"imagesTr/a_000{channel}.png")
    write_mask(tmp_path / "labelsTr/a.png")
    source = read()
    assert codes(source) == {"ambiguous_pair": 2}
    assert all("The case has 2 channels" in each.reason for each in source.quarantined)


@pytest.mark.parametrize(
    ("name", "match"),
    [("imagesTr/a_0000.nii.gz", "1 files are volumes"), ("im0001.ppm.gz", "1 files are packed by gzip")],
)
def test_what_is_not_read_is_named(name, match, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=match):
        read_source(str(tmp_path), OPTIONS)
