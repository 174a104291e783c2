"""What a person sees of a sample in quarantine."""

import cv2
import numpy as np
import pytest

from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.pictures.palette import MASK
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.examine import Task, _examine
from sa2va_ray.prepare.identity.pseudonyms import Identity
from sa2va_ray.prepare.records import Annotation, LabelFile, Record
from sa2va_ray.prepare.report.pictures import PANEL_PX, draw_pictures

SQUARE = np.zeros((64, 64), bool)
SQUARE[16:48, 16:48] = True


@pytest.mark.parametrize(("max_pixels", "is_drawn"), [(64 * 64, True), (64 * 64 - 1, False)])
def test_a_mask_is_drawn_by_its_outline(tmp_path, max_pixels, is_drawn):
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((32, 32), np.uint8))
    config = PrepareConfig(source=str(tmp_path), out=str(tmp_path / "out"), checks={"max_pixels": max_pixels})
    record = Record(0, "x", str(tmp_path / "image.png"), Annotation({"vessel": [mask_to_rle(SQUARE)]}))
    row = {"index": 0, "verdict": "quarantined", "findings": [{"code": "size_mismatch"}], "mask_dice": None}
    (picture,) = draw_pictures({0: record}, {0: row}, config).worst
    assert picture.caption == "item 0: size_mismatch"
    blue = np.abs(picture.pixels.astype(int) - MASK).sum(axis=2) < 60
    assert blue.any() == is_drawn
    assert not is_drawn or np.ptp(np.nonzero(blue)[1]) > PANEL_PX / 3


def fail_unforeseen(data: bytes, phrase: str) -> Annotation:
    raise KeyError("labels of Hans Mueller")


def test_a_fault_of_ours_in_one_sample_does_not_stop_the_job_when_its_report_is_drawn(tmp_path):
    """The report reads the label again, and met the same fault on the driver, after all samples had been looked at."""
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((32, 32), np.uint8))
    config = PrepareConfig(source=str(tmp_path), out=str(tmp_path / "out"))
    uri = str(tmp_path / "image.png")
    record = Record(0, "x", uri, LabelFile(uri, fail_unforeseen, "vessel"))
    outcome = _examine(Task(record, Identity("s", "p", "r", 0), "train"), config)
    assert [each["code"] for each in outcome["findings"]] == ["unexpected"]
    assert "Mueller" not in str(outcome)
    assert draw_pictures({0: record}, {0: outcome}, config).worst == []
