"""The padding of DICOM files, and their pixel spacing, in a sample. Masks of the field of view: `test_validate.py`."""

import numpy as np
import pytest

from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.prepare.checks.validate import check_sample
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.records import Annotation, Record, Rejected
from tests.images.formats.test_dicom import ROUND, WORDS, dataset, padded, to_bytes

INSIDE, CORNER = np.zeros(ROUND.shape, bool), np.zeros(ROUND.shape, bool)
INSIDE[15:20, 15:25] = True
CORNER[:5, :10] = True


def check(folder, *masks, frame=0, config=None, **tags):
    path = folder / f"MuellerHans{len(list(folder.iterdir()))}.dcm"  # a file of several frames is read once
    frames = np.concatenate([padded(0), padded(0, WORDS[1])]).astype(np.uint16)
    path.write_bytes(to_bytes(dataset(frames, **tags)))
    label = Annotation({"vessel": [mask_to_rle(mask) for mask in masks]})
    record = Record(0, path.name, str(path), label, frame=frame, patient="H-4711")
    return check_sample(record, config or PrepareConfig(source="-", out="-"))


def test_padding_does_not_count(tmp_path):
    for frame in (0, 1):
        checked = check(tmp_path, INSIDE, frame=frame, PixelPaddingValue=0)
        np.testing.assert_array_equal(checked.ignored, ~ROUND)
        assert checked.num_objects == 1
    assert check(tmp_path, INSIDE).ignored is None


def test_objects_in_the_padding_are_refused(tmp_path):
    with pytest.raises(Rejected) as refused:
        check(tmp_path, CORNER, PixelPaddingValue=0)
    assert refused.value.code == "padding_objects"
    assert "50 of the 50 pixels of objects are in the padding of the DICOM file" in refused.value.reason


def test_the_spacing_of_pixels_is_carried_and_the_config_knows_better(tmp_path):
    checked = check(tmp_path, INSIDE, PixelSpacing=[0.3, 0.25])
    assert checked.spacing == (0.3, 0.25)
    assert checked.findings == []
    config = PrepareConfig(source="-", out="-", pixel_spacing_mm=(0.1, 0.1))
    assert check(tmp_path, INSIDE, config=config, PixelSpacing=[0.3, 0.25]).spacing == (0.1, 0.1)
    checked = check(tmp_path, INSIDE, PixelSpacing=[0, 0])
    assert checked.spacing is None
    assert [each.code for each in checked.findings] == ["pixel_spacing"]


@pytest.mark.parametrize("spacing", [(0, 0.1), (0.1, 11), (0.1,)])
def test_the_config_bounds_the_spacing(spacing):
    with pytest.raises(ValueError, match="pixel_spacing_mm"):
        PrepareConfig(source="-", out="-", pixel_spacing_mm=spacing)
