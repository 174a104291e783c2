"""How large a pixel is, in millimetres, as far as an image file tells it."""

import math

from sa2va_ray.images.checks import is_dicom
from sa2va_ray.images.decode import dicom_reader
from sa2va_ray.images.formats import tiff
from sa2va_ray.models.sa2va.pixels_sa2va import ImageError

Spacing = tuple[float, float]
"""From row to row, and from column to column, in millimetres."""

MIN_SPACING_MM, MAX_SPACING_MM = 1e-5, 10.0
"""10 nm is less than any microscope resolves, 10 mm more than any pixel of a body."""

_MM_OF_UNIT = {2: 25.4, 3: 10.0}  # inch, centimetre, of TIFF's ResolutionUnit
_OF_PRINTING = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200, 2400)
"""Dots per inch that programs write of their own accord, for printers and screens: they tell nothing of tissue."""


def read_pixel_spacing(data: bytes, frame: int | None = None) -> Spacing | None:
    """That of the pixels as `decode_image_bytes` gives them; None where the file does not tell it.

    DICOM: `PixelSpacing`, else `ImagerPixelSpacing`, which is that at the detector. TIFF: the resolution, where a unit
    is named and it is none of those for printers and screens. Other formats tell of printing only.

    Args:
        data: the image file, which is known to be readable.
        frame: as `decode_image_bytes`.

    Raises:
        ImageError: `spacing`, numbers that are not those of pixels.
    """
    if is_dicom(data):
        spacing = dicom_reader().frame_spacing(data, frame or 0)
    elif data[:2] in tiff.SIGNATURES:
        spacing = _of_page(tiff.select_page(tiff.read_pages(data), frame))
    else:
        return None
    if spacing is not None and not all(MIN_SPACING_MM <= side <= MAX_SPACING_MM for side in spacing):
        raise ImageError(
            "spacing",
            f"The file says that a pixel is {spacing[0]:g} x {spacing[1]:g} mm (row, column); {MIN_SPACING_MM:g} to "
            f"{MAX_SPACING_MM:g} mm can be.",
        )
    return spacing


def _of_page(page: tiff.Page) -> Spacing | None:
    unit = _MM_OF_UNIT.get(page.get(tiff.Tag.RESOLUTION_UNIT, 0))
    across, down = _quotient(page, tiff.Tag.X_RESOLUTION), _quotient(page, tiff.Tag.Y_RESOLUTION)
    if unit is None or not across or not down:
        return None
    dots_per_inch = (across * 25.4 / unit, down * 25.4 / unit)
    if all(any(math.isclose(dots, each, rel_tol=0.005) for each in _OF_PRINTING) for dots in dots_per_inch):
        return None
    row, column = unit / down, unit / across
    return (column, row) if page.orientation > 4 else (row, column)


def _quotient(page: tiff.Page, tag: int) -> float:
    """0 where the page does not tell it."""
    values = page.tags.get(tag, ())
    return values[0] / values[1] if len(values) == 2 and values[1] else 0.0
