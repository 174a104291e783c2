import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

from sa2va_ray.config import UserError
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_mask


def write_dicom(path, num_frames=1, patient=HIDDEN, series="1.2.3"):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientID, data.SeriesInstanceUID = patient, series
    data.Rows, data.Columns, data.NumberOfFrames = 12, 16, num_frames
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = np.zeros((num_frames, 12, 16), np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def test_frames_that_have_a_mask_are_items(tmp_path, read):
    write_dicom(tmp_path / "dicom/run.dcm", 12)
    write_dicom(tmp_path / "dicom/single.dcm", patient="roe", series="1.2.4")
    for name in ("run_12.png", "run_0002_mask.png", "single_mask.png"):
        write_mask(tmp_path / "masks" / name)
    source = read()
    assert source.layouts == {"dicom": 3}
    assert source.quarantined == []
    found = [(r.name, r.frame, r.patient, r.run) for r in source.records]
    assert found == [
        ("dicom/run.dcm#1", 1, HIDDEN, "1.2.3"),
        ("dicom/run.dcm#11", 11, HIDDEN, "1.2.3"),
        ("dicom/single.dcm#0", 0, "roe", "1.2.4"),
    ]
    assert source.records[0].image_uri == str(tmp_path / "dicom/run.dcm")
    assert source.records[0].label.uri == str(tmp_path / "masks/run_0002_mask.png")


def test_files_without_suffix_are_known_by_how_they_begin(tmp_path, read):
    write_dicom(tmp_path / "1.2.840.77", 3)
    write_dicom(tmp_path / "IM0001")
    write_mask(tmp_path / "1.2.840.77_3.png")
    write_mask(tmp_path / "IM0001.png")
    (tmp_path / "LICENSE").write_text("of the data")
    source = read()
    assert [record.name for record in source.records] == ["1.2.840.77#2", "IM0001#0"]
    assert source.quarantined == []


@pytest.mark.parametrize(
    ("masks", "dicom", "expected"),
    [
        (["run.png"], {"num_frames": 3}, {"frame_unknown": 1}),
        (["run_0.png", "run_4.png"], {"num_frames": 3}, {"frame_missing": 2}),
        (["run_2.png", "run_02_mask.png"], {"num_frames": 3}, {"ambiguous_pair": 1}),
        (["run.png", "run_1.png"], {}, {"path_twice": 2}),
        (["run.png"], {"patient": ""}, {"patient_missing": 1}),
    ],
)
def test_a_wrong_frame_is_quarantined(tmp_path, read, masks, dicom, expected):
    write_dicom(tmp_path / f"{HIDDEN}/run.dcm", **dicom)
    write_dicom(tmp_path / "good.dcm")
    for name in masks:
        write_mask(tmp_path / HIDDEN / name)
    write_mask(tmp_path / "good.png")
    source = read()
    assert codes(source) == expected
    assert [record.name for record in source.records] == ["good.dcm#0"]


def test_a_mask_that_two_files_may_mean_is_of_none(tmp_path, read):
    write_dicom(tmp_path / "run.dcm", 3)
    write_dicom(tmp_path / "run_2.dcm")
    write_mask(tmp_path / "run_2.png")
    assert codes(read()) == {"ambiguous_pair": 2}


def test_a_broken_file_and_files_without_masks_are_told(tmp_path, read):
    (tmp_path / "broken.dcm").write_bytes(HIDDEN.encode() * 100)
    write_dicom(tmp_path / f"{HIDDEN}.dcm")
    write_dicom(tmp_path / "good.dcm")
    for name in ("broken.png", "good.png", "lonely_mask.png"):
        write_mask(tmp_path / name)
    source = read()
    assert [record.name for record in source.records] == ["good.dcm#0"]
    (broken,) = (each for each in source.quarantined if not each.code.startswith("orphan"))
    assert broken.index == 0
    assert codes(source) == {broken.code: 1, "orphan_label": 1, "orphan_image": 1}


def test_only_dicom_without_masks_is_refused(tmp_path):
    write_dicom(tmp_path / f"{HIDDEN}.dcm")
    write_image(tmp_path / "x/other.jpg")
    with pytest.raises(UserError, match=r"1 DICOM file\(s\), 1 JPEG file\(s\)") as caught:
        read_source(str(tmp_path), OPTIONS)
    assert HIDDEN not in str(caught.value)


def test_images_with_masks_beside_dicom_are_read_too(tmp_path, read):
    write_dicom(tmp_path / "run.dcm", 3)
    write_image(tmp_path / "images/a.jpg")
    for name in ("run_2.png", "masks/a.png"):
        write_mask(tmp_path / name)
    source = read()
    assert source.layouts == {"mask_images": 1, "dicom": 1}
    assert source.quarantined == []
