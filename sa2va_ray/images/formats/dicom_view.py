"""From the numbers that a DICOM file stores to grey: modality transformation, then VOI LUT or window.

Shapes: H W pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from sa2va_ray.models.sa2va.pixels_sa2va import ImageError, to_8_bits


@dataclass(frozen=True)
class Lut:
    """A lookup table: `table[0]` stands for `first` and all below, the last entry for all above."""

    table: np.ndarray
    first: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return self.table[(np.rint(values) - self.first).clip(0, len(self.table) - 1).astype(np.intp)]


@dataclass(frozen=True)
class View:
    """How a file says that its numbers are shown; what it does not say is None."""

    modality: Lut | None
    rescale: tuple[float, float] | None  # slope, intercept
    voi: Lut | None
    window: tuple[float, float] | None  # center, width
    function: str

    @property
    def is_identity(self) -> bool:
        return self.modality is self.rescale is self.voi is self.window is None

    def apply(self, values: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
        """(H, W) numbers -> uint8; without VOI LUT and window from the least to the greatest of those `inside`."""
        if self.modality:
            values = self.modality(values)
        elif self.rescale:
            values = values * self.rescale[0] + self.rescale[1]
        if self.voi:
            return to_8_bits(self.voi(values), float(self.voi.table.min()), float(self.voi.table.max()))
        return to_8_bits(self._windowed(values), 0, 255) if self.window else to_8_bits(values, inside=inside)

    def _windowed(self, values: np.ndarray) -> np.ndarray:
        assert self.window is not None
        window = Dataset()  # of an 8-bit image, so that it ends in 0..255
        window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
        window.WindowCenter, window.WindowWidth = self.window
        window.VOILUTFunction = self.function
        try:
            return apply_windowing(values, window)
        except ValueError:
            center, width = self.window
            raise ImageError(
                "dicom_window", f"Window center {center:g} and width {width:g} are not usable, or not its function."
            ) from None


def read_view(dataset: Dataset, frame: int) -> View:
    """That of one frame, from 0.

    Raises:
        ImageError: numbers or tables of it are none.
    """
    endian = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    is_signed = dataset.PixelRepresentation == 1
    transformation = _macro(dataset, frame, "PixelValueTransformationSequence")
    shown = _macro(dataset, frame, "FrameVOILUTSequence")
    center, width = _number(shown, "WindowCenter"), _number(shown, "WindowWidth")
    has_window = None not in (center, width) and (center, width) != (0, 0)  # 0 and 0 is how empty fields are written
    return View(
        _lut(transformation, "ModalityLUTSequence", endian, is_signed),
        _rescale(transformation),
        _lut(shown, "VOILUTSequence", endian, is_signed and not transformation.get("ModalityLUTSequence")),
        (center, width) if has_window and center is not None and width is not None else None,
        str(shown.get("VOILUTFunction") or "LINEAR"),
    )


def read_spacing(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """Millimetres from row to row, and from column to column; see `dicom.frame_spacing`.

    Raises:
        ImageError: what stands there is no number.
    """
    measures = _macro(dataset, frame, "PixelMeasuresSequence")
    for source, name in ((measures, "PixelSpacing"), (dataset, "ImagerPixelSpacing")):
        row, column = _number(source, name), _number(source, name, place=1)
        if row is not None:
            return row, row if column is None else column
    return None


def _macro(dataset: Dataset, frame: int, name: str) -> Dataset:
    """Where the attributes of a kind are: in the frame's own group, in that of all frames, or in the file itself."""
    own = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    return next((group[name][0] for group in (*own, *shared) if group.get(name)), dataset)


def _rescale(macro: Dataset) -> tuple[float, float] | None:
    slope, intercept = _number(macro, "RescaleSlope"), _number(macro, "RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return None
    if slope == 0:
        raise ImageError("dicom_number", "RescaleSlope is 0, which would make all pixels equal.")
    return slope, intercept


def _number(dataset: Dataset, name: str, place: int = 0) -> float | None:
    """A number in a tag, by its place; some programs write a decimal comma. None where it is empty."""
    if name not in dataset:
        return None
    element = dataset.get_item(name)  # as it is stored, where it can be: pydicom refuses a comma
    stored = element.value if element is not None else None
    if isinstance(stored, bytes):
        stored = stored.decode("latin-1").split("\\")
    values = list(stored) if isinstance(stored, (list, tuple)) or hasattr(stored, "append") else [stored]
    text = "" if len(values) <= place or values[place] is None else str(values[place]).strip(" \0").replace(",", ".")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ImageError("dicom_number", f"What stands in {name} is not a number.")
    return number


def _lut(macro: Dataset, name: str, endian: str, is_signed: bool) -> Lut | None:
    """pydicom's own look-up wraps around where 8-bit entries number over 256.

    Args:
        is_signed: whether what is looked up is, and the first number with it, which may be written as unsigned.
    """
    if not macro.get(name):
        return None
    item = macro[name][0]
    num_entries, first, _ = (int(number) for number in item.LUTDescriptor)
    num_entries = num_entries or 2**16
    if is_signed and first >= 2**15:
        first -= 2**16
    stored = item.LUTData
    if isinstance(stored, bytes):
        stored = np.frombuffer(stored, f"{endian}u2" if len(stored) >= 2 * num_entries else "u1")
    table = np.atleast_1d(np.asarray(stored))[:num_entries]
    if len(table) < num_entries:
        raise ImageError("dicom_lut", f"A lookup table has {len(table)} entries, and says it has {num_entries}.")
    return Lut(table, first)
