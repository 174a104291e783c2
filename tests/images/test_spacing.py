"""How large files say that their pixels are."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from pydicom.dataset import Dataset

from sa2va_ray.images.decode import ImageError
from sa2va_ray.images.spacing import read_pixel_spacing
from tests.images.formats.test_dicom import dataset, to_bytes

FRAMES = np.zeros((2, 4, 6), np.uint8)


def tiff(unit: int | None, across: float, down: float, orientation: int = 1, **options) -> bytes:
    """With the tags of a resolution, in pixels per unit (1 none, 2 inch, 3 cm)."""
    tags = ImageFileDirectory_v2()
    tags[282], tags[283], tags[274] = across, down, orientation
    if unit is not None:
        tags[296] = unit
    buffer = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(buffer, "TIFF", tiffinfo=tags, **options)
    return buffer.getvalue()


def test_dicom_tells_rows_first():
    assert read_pixel_spacing(to_bytes(dataset(FRAMES, PixelSpacing=[0.3, 0.25])), 1) == (0.3, 0.25)
    at_detector = dataset(FRAMES, ImagerPixelSpacing=[0.2, 0.2])
    assert read_pixel_spacing(to_bytes(at_detector), 0) == (0.2, 0.2)
    at_detector.PixelSpacing = [0.15, 0.15]
    assert read_pixel_spacing(to_bytes(at_detector), 0) == (0.15, 0.15)
    assert read_pixel_spacing(to_bytes(dataset(FRAMES)), 0) is None


def test_a_frame_of_dicom_may_have_its_own():
    groups = []
    for side in (0.01, 0.02):
        measures, group = Dataset(), Dataset()
        measures.PixelSpacing = [side, 2 * side]
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    data = to_bytes(dataset(FRAMES, PerFrameFunctionalGroupsSequence=groups))
    assert [read_pixel_spacing(data, frame) for frame in (0, 1)] == [(0.01, 0.02), (0.02, 0.04)]


@pytest.mark.parametrize("options", [{}, {"big_tiff": True}], ids=["tiff", "bigtiff"])
@pytest.mark.parametrize(("unit", "mm"), [(2, 25.4), (3, 10.0)])
def test_tiff_tells_pixels_per_unit(unit, mm, options):
    assert read_pixel_spacing(tiff(unit, 500, 250, **options)) == pytest.approx((mm / 250, mm / 500))
    assert read_pixel_spacing(tiff(unit, 500, 250, 6, **options)) == pytest.approx((mm / 500, mm / 250))


@pytest.mark.parametrize(
    "data",
    [
        tiff(2, 72, 72),
        tiff(2, 300, 300),
        tiff(3, 118.11, 118.11),  # 300 dpi
        tiff(1, 500, 500),
        tiff(2, 0, 0),
    ],
)
def test_what_is_for_printers_or_without_a_unit_tells_nothing(data):
    assert read_pixel_spacing(data) is None


def test_other_formats_tell_of_printing_only():
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(FRAMES[0]).save(buffer, kind, dpi=(1000, 1000))
        assert read_pixel_spacing(buffer.getvalue()) is None


@pytest.mark.parametrize(
    "data",
    [
        to_bytes(dataset(FRAMES, PixelSpacing=[0, 0])),
        to_bytes(dataset(FRAMES, PixelSpacing=[-0.3, 0.3])),
        to_bytes(dataset(FRAMES, PixelSpacing=[300, 300])),
        tiff(3, 1, 0.5),
    ],
)
def test_numbers_that_cannot_be_are_told(data):
    with pytest.raises(ImageError, match=r"a pixel is .* mm \(row, column\); 1e-05 to 10 mm can be"):
        read_pixel_spacing(data, 0)
