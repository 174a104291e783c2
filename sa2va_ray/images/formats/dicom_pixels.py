"""The numbers that one frame of a DICOM file stores, with the header held against the code stream.

Shapes: H W pixels.
"""

import io
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import convert_color_space, get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

from sa2va_ray.images.checks import codec_errors
from sa2va_ray.images.formats import codestreams
from sa2va_ray.models.sa2va.pixels_sa2va import ImageError

GREYS = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
_YCC = ("YBR_FULL", "YBR_FULL_422")
_OF_JPEG_2000 = ("YBR_RCT", "YBR_ICT")  # which its decoder makes RGB of
_PIXEL_DATA_HEADER, _IMPLICIT_HEADER = 12, 8  # tag, VR and length; compressed files are always of explicit VR
_UNDEFINED = 0xFFFFFFFF
_REQUIRED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored")


@dataclass(frozen=True)
class Layout:
    """How the header says that pixels are stored: `stored` bits of each sample, up to bit `high_bit`, in a cell of
    `allocated` bits."""

    height: int
    width: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high_bit: int
    is_signed: bool

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest number that fit into the stored bits."""
        half = 1 << (self.stored - 1)
        return (-half, half - 1) if self.is_signed else (0, 2 * half - 1)


def read_layout(dataset: Dataset) -> Layout:
    """Where a file does not say whether its numbers are signed, they are not.

    Raises:
        ImageError: a tag is missing, or the tags contradict one another.
    """
    missing = [name for name in _REQUIRED if dataset.get(name) in (None, "")]
    if missing:
        said = " and ".join(missing)
        raise ImageError("dicom_tag", f"The DICOM file does not say {said}, without which its pixels cannot be read.")
    stored = int(dataset.BitsStored)
    high_bit = dataset.get("HighBit")
    layout = Layout(
        *(int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)),
        str(dataset.PhotometricInterpretation).strip(),
        *(int(dataset.BitsAllocated), stored, stored - 1 if high_bit is None else int(high_bit)),
        dataset.get("PixelRepresentation") == 1,
    )
    if layout.allocated not in (1, 8, 16, 32) or not 0 < layout.stored <= layout.high_bit + 1 <= layout.allocated:
        raise ImageError(
            "dicom_bits",
            f"The header says {layout.stored} bits up to number {layout.high_bit} (from 0) in cells of "
            f"{layout.allocated}: these do not fit, or are not read (cells of 1, 8, 16 and 32 bits are).",
        )
    _check_photometric(layout, dataset)
    return layout


@dataclass(frozen=True)
class Stored:
    """`values`: (H, W) integers as the header means them, or (H, W, 3) RGB. `cells`: what they were taken out of, all
    bits, unsigned."""

    values: np.ndarray
    cells: np.ndarray


def read_stored(dataset: Dataset, layout: Layout, data: bytes, start: int, frame: int) -> Stored:
    """One frame.

    Raises:
        ImageError: the pixels are not all there, or header and code stream contradict each other.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        _check_length(dataset, data, start)
    if not syntax.is_compressed or syntax == RLELossless:
        with codec_errors():
            cells = pixel_array(io.BytesIO(data), index=frame, raw=True, **_as_cells(layout.allocated))
            cells = cells.astype(cells.dtype.newbyteorder("="), copy=False)
        return _in_rgb(Stored(_from_cells(cells, layout), cells), layout)
    with codec_errors():
        code = _compressed_frame(dataset, data, start, frame)
        facts = codestreams.read_stream_facts(code)
    _check_facts(facts, layout, frame)
    if syntax in JPEG2000TransferSyntaxes:
        return _jpeg_2000(facts, layout, data, frame)
    if facts.is_usual and facts.bits == 8:
        return _agreed(_jpeg(code, facts, layout), facts, layout)
    return _by_plugin(dataset, facts, layout, data, frame)


def read_padding(dataset: Dataset, layout: Layout) -> tuple[int, int] | None:
    """The least and the greatest number that stand for no pixel (`PixelPaddingValue`, `PixelPaddingRangeLimit`), signed
    as the pixels are; None where the header has none."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = [_as_cell(int(each), layout) for each in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _as_cell(number: int, layout: Layout) -> int:
    """A number as a cell of pixels would hold it, where its sign was written otherwise; one that no cell can hold as it
    is."""
    size, half = 1 << layout.allocated, 1 << (layout.allocated - 1)
    if layout.is_signed:
        return number - size if half <= number < size else number
    return number + size if -half <= number < 0 else number


def is_padding(stored: Stored, layout: Layout, ends: tuple[int, int]) -> np.ndarray:
    """(H, W) bool. A number that needs more bits than the stored ones is looked for in whole cells."""
    low, high = layout.limits
    fits = low <= ends[0] and ends[1] <= high
    numbers = stored.values if fits else stored.cells.view(f"{'i' if layout.is_signed else 'u'}{stored.cells.itemsize}")
    return (numbers >= ends[0]) & (numbers <= ends[1])


def _check_photometric(layout: Layout, dataset: Dataset) -> None:
    samples = 1 if layout.photometric in (*GREYS, PALETTE) else 3
    known = (*GREYS, PALETTE, "RGB", *_YCC, *_OF_JPEG_2000)
    if layout.photometric not in known:
        raise ImageError(
            "dicom_colours",
            "The photometric interpretation of the DICOM file is none of those read: " + ", ".join(known) + ".",
        )
    if layout.samples != samples:
        raise ImageError(
            "dicom_colours",
            f"The header says {layout.photometric}, which has {samples} samples a pixel, and {layout.samples} samples.",
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if samples == 3 and not syntax.is_compressed and dataset.get("PlanarConfiguration") not in (0, 1):
        raise ImageError(
            "dicom_tag", "The DICOM file does not say PlanarConfiguration, 0 or 1, how colours are stored."
        )
    if layout.photometric in _OF_JPEG_2000 and syntax not in JPEG2000TransferSyntaxes:
        raise ImageError("dicom_colours", f"The header says {layout.photometric}, and the file is no JPEG 2000.")


def _as_cells(bits: int, is_signed: bool = False) -> dict[str, Any]:
    """Options of pydicom to give all bits of a cell."""
    return {
        "bits_allocated": bits,
        "bits_stored": bits,
        "pixel_representation": int(is_signed),
        "correct_unused_bits": False,
        "apply_j2k_sign_correction": False,
        "apply_jls_sign_correction": False,
    }


def _check_length(dataset: Dataset, data: bytes, start: int) -> None:
    """Native pixels must all be there, and not be so many more that the header must be of other ones."""
    expected = get_expected_length(dataset)
    is_long = not dataset.file_meta.TransferSyntaxUID.is_implicit_VR
    begin = start + (_PIXEL_DATA_HEADER if is_long else _IMPLICIT_HEADER)
    if len(data) - begin < expected:
        raise ImageError(
            "image_unreadable", f"The file is cut off: {len(data) - begin} of {expected} bytes of pixels are there."
        )
    endian = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    (length,) = struct.unpack_from(f"{endian}I", data, begin - 4)
    if length != _UNDEFINED and length >= expected * 4 / 3 + 2:
        raise ImageError(
            "dicom_bits",
            f"By the header the pixels are {expected} bytes, and the file has {length}: its size, bits, frames or "
            "colours are not what the header says.",
        )


def _compressed_frame(dataset: Dataset, data: bytes, start: int, frame: int) -> bytes:
    file = io.BytesIO(data)
    file.seek(start + _PIXEL_DATA_HEADER)
    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    number = int(dataset.get("NumberOfFrames") or 1)
    return get_frame(file, frame, number_of_frames=number, extended_offsets=offsets if all(offsets) else None)


def _check_facts(facts: codestreams.StreamFacts, layout: Layout, frame: int) -> None:
    size = (layout.height, layout.width, layout.samples)
    if (facts.height, facts.width, facts.channels) != size:
        raise ImageError(
            "image_unreadable", f"Frame {frame} is not of (height, width, channels) {size}, as the header says."
        )
    if facts.bits < layout.stored:
        raise _contradiction(facts, layout)


def _contradiction(facts: codestreams.StreamFacts, layout: Layout) -> ImageError:
    signs = {True: "signed", False: "unsigned", None: "signed or not"}
    return ImageError(
        "dicom_bits",
        f"The header says {layout.stored} bits ({signs[layout.is_signed]}), the compressed image {facts.bits} bits "
        f"({signs[facts.is_signed]}): which is right is unknown. Save it uncompressed with the right header.",
    )


def _from_cells(cells: np.ndarray, layout: Layout) -> np.ndarray:
    """Whole cells, unsigned -> the stored bits, signed or not. The other bits may be anything (PS3.5, 8.1.1)."""
    width = 8 * cells.itemsize
    above = width - 1 - layout.high_bit
    kind = f"{'i' if layout.is_signed else 'u'}{cells.itemsize}"
    if layout.allocated == 1 or layout.stored == width:
        return cells.view(kind)
    return (cells << above).view(kind) >> (width - layout.stored)


def _agreed(decoded: np.ndarray, facts: codestreams.StreamFacts, layout: Layout) -> Stored:
    """Decoded numbers, if they mean the same by the code stream and by the header.

    A code stream may be of whole cells, with something in the bits that the header leaves out; but numbers that go on
    in the bit above those are longer than the header says.
    """
    cells = decoded.view(f"u{decoded.itemsize}")
    is_shifted = layout.high_bit != layout.stored - 1 and facts.bits == layout.allocated == 8 * decoded.itemsize
    values = _from_cells(cells, layout if is_shifted else replace(layout, high_bit=layout.stored - 1))
    as_header = decoded if facts.is_signed is not None else decoded.view(values.dtype)
    goes_on = facts.bits > layout.stored and (cells >> layout.stored & 1).any()
    has_other_sign = facts.is_signed not in (None, layout.is_signed)
    if not is_shifted and (goes_on or has_other_sign) and (values.astype(np.int64) != as_header).any():
        raise _contradiction(facts, layout)
    return Stored(values, cells)


def _jpeg_2000(facts: codestreams.StreamFacts, layout: Layout, data: bytes, frame: int) -> Stored:
    made_rgb, said = facts.has_ycc, layout.photometric
    if layout.samples == 3 and ((said in _OF_JPEG_2000 and not made_rgb) or (said in _YCC and made_rgb)):
        raise ImageError(
            "dicom_colours",
            f"The header says {said}, and the code stream that its colours are {'' if made_rgb else 'not '}transformed "
            "(multiple component transformation): which of the two is right is unknown.",
        )
    container = 8 if facts.bits <= 8 else 16 if facts.bits <= 16 else 32
    with codec_errors():
        options = _as_cells(container, bool(facts.is_signed))
        values = pixel_array(io.BytesIO(data), index=frame, raw=True, planar_configuration=0, **options)
    return _in_rgb(_agreed(values, facts, layout), layout)


def _jpeg(code: bytes, facts: codestreams.StreamFacts, layout: Layout) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8. Whether colours are differences the code stream says, and where it does not, the
    header."""
    with codec_errors():
        image = JpegImageFile(io.BytesIO(code))
        if layout.samples == 3 and facts.has_ycc is None and layout.photometric == "RGB":
            image.draft("YCbCr", image.size)  # libjpeg then transforms nothing
        return np.array(image)


def _by_plugin(dataset: Dataset, facts: codestreams.StreamFacts, layout: Layout, data: bytes, frame: int) -> Stored:
    """JPEG-LS, lossless and 12-bit JPEG, where one of pydicom's plugins reads them."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not set(get_decoder(syntax).available_plugins) - {"pillow"}:
        raise ImageError(
            "dicom_transfer_syntax",
            f"{syntax.name} of {facts.bits} bits is not read. Install pylibjpeg-libjpeg or python-gdcm, or save it as "
            "JPEG 2000.",
        )
    container = 8 if facts.bits <= 8 else 16
    with codec_errors():
        cells = pixel_array(io.BytesIO(data), index=frame, raw=True, planar_configuration=0, **_as_cells(container))
    return _in_rgb(_agreed(cells, facts, layout), layout)


def _in_rgb(stored: Stored, layout: Layout) -> Stored:
    if layout.photometric not in _YCC:
        return stored
    if layout.stored != 8:
        raise ImageError("dicom_colours", f"{layout.photometric} of {layout.stored} bits is not read; save it as RGB.")
    return replace(stored, values=convert_color_space(stored.values.astype(np.uint8), layout.photometric, "RGB"))
