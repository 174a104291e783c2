"""Images that a list says to have no object."""

from dataclasses import replace

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.records import Annotation
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_json, write_mask
from tests.prepare.sources.test_dicom_frames import write_dicom


def listed(folder, *lines: str):
    path = folder.parent / "negatives.txt"
    path.write_text("\n".join(lines))
    return replace(OPTIONS, negatives_list=str(path))


def test_listed_images_need_no_label_and_others_stay_orphans(tmp_path):
    folder = tmp_path / "data"
    for stem in ("a", "b", "c", "d"):
        write_image(folder / f"images/{stem}.png")
    for stem in ("a", "b"):
        write_mask(folder / f"masks/{stem}.png")
    source = read_source(str(folder), listed(folder, "images/b.png", "", "images/c.png "))
    assert [(each.name, each.is_listed_negative) for each in source.records] == [
        ("images/a.png", False),
        ("images/b.png", True),
        ("images/c.png", True),
    ]
    assert source.records[2].label == Annotation({})
    assert source.layouts == {"mask_images": 2, "negatives_list": 1}
    assert codes(source) == {"orphan_image": 1}


def test_lines_that_name_no_image_are_told_by_their_numbers(tmp_path):
    folder = tmp_path / "data"
    write_image(folder / "images/a.png")
    write_mask(folder / "masks/a.png")
    with pytest.raises(UserError, match=r"2 line\(s\) .* \(lines 1, 3\)") as caught:
        read_source(str(folder), listed(folder, HIDDEN, "images/a.png", f"images/{HIDDEN}.png"))
    assert HIDDEN not in str(caught.value)


def test_a_list_that_is_missing_is_told(tmp_path):
    write_image(tmp_path / "images/a.png")
    write_mask(tmp_path / "masks/a.png")
    with pytest.raises(UserError, match="`negatives_list` is missing"):
        read_source(str(tmp_path), replace(OPTIONS, negatives_list=str(tmp_path / HIDDEN)))


@pytest.mark.parametrize("name", ["masks/a.png", "masks/lonely.png"])
def test_masks_are_no_images_without_objects(tmp_path, name):
    folder = tmp_path / "data"
    write_image(folder / "images/a.png")
    for stem in ("a", "lonely"):
        write_mask(folder / f"masks/{stem}.png")
    with pytest.raises(UserError, match="1 of 1 images in `negatives_list` are masks"):
        read_source(str(folder), listed(folder, name))


@pytest.mark.parametrize("observer", ["1stHO", "2ndHO"])
def test_masks_of_any_observer_are_no_images_without_objects(tmp_path, observer):
    folder = tmp_path / "chase"
    write_image(folder / "Image_01L.jpg")
    for name in ("1stHO", "2ndHO"):
        write_mask(folder / f"Image_01L_{name}.png")
    with pytest.raises(UserError, match="1 of 1 images in `negatives_list` are masks"):
        read_source(str(folder), listed(folder, f"Image_01L_{observer}.png"))


def test_a_mask_that_polygons_are_compared_with_is_no_image(tmp_path):
    folder = tmp_path / "data"
    write_image(folder / "images/a.png")
    write_mask(folder / "masks/a.png")
    write_json(folder / "images/a.json", {"imagePath": "a.png", "shapes": []})
    with pytest.raises(UserError, match="1 of 1 images in `negatives_list` are masks"):
        read_source(str(folder), listed(folder, "masks/a.png"))


def test_a_dicom_file_stands_for_its_frames_that_have_no_mask(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_dicom(folder / "run.dcm", num_frames=3)
    write_dicom(folder / "still.dcm")
    write_dicom(folder / "other.dcm")
    write_mask(folder / "run_2.png")
    source = read_source(str(folder), listed(folder, "run.dcm", "still.dcm"))
    assert [(each.name, each.is_listed_negative) for each in source.records] == [
        ("run.dcm#1", True),  # is not without objects, which is told when its mask is read
        ("run.dcm#0", True),
        ("run.dcm#2", True),
        ("still.dcm#0", True),
    ]
    assert source.records[1].patient == source.records[3].patient == HIDDEN
    assert codes(source) == {"orphan_image": 1}


def test_lines_as_find_and_windows_write_them(tmp_path):
    folder = tmp_path / "data"
    write_image(folder / "images/a.png")
    write_image(folder / "images/b.png")
    write_mask(folder / "masks/b.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf./images/a.png\r\nimages/a.png\r\n")
    source = read_source(str(folder), replace(OPTIONS, negatives_list=str(tmp_path / "list.txt")))
    assert [each.name for each in source.records if each.is_listed_negative] == ["images/a.png"]


def test_an_image_of_a_data_set_keeps_its_patient_its_field_of_view_and_its_phrases(tmp_path):
    drive, nnunet = tmp_path / "drive", tmp_path / "nnunet"
    for number in ("21", "22"):
        write_image(drive / f"training/images/{number}_training.tif")
        write_mask(drive / f"training/mask/{number}_training_mask.gif")
        write_image(nnunet / f"imagesTr/{number}_0000.png")
    write_mask(drive / "training/1st_manual/21_manual1.gif")
    write_mask(nnunet / "labelsTr/21.png")
    write_json(nnunet / "dataset.json", {"labels": {"background": 0, "artery": 255, "vein": 2}})
    record = read_source(str(drive), listed(drive, "training/images/22_training.tif")).records[1]
    assert (record.is_listed_negative, record.patient) == (True, "22")
    assert record.field_of_view_uri.endswith("22_training_mask.gif")
    record = read_source(str(nnunet), listed(nnunet, "imagesTr/22_0000.png")).records[1]
    assert (record.plain_name, record.label) == ("imagesTr/22.png", Annotation({"artery": [], "vein": []}))
