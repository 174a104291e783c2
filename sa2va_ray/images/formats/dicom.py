"""DICOM files of angiography and OCT: what they say of themselves, and one frame at a time as pixels.

Needs the extra `dicom`, and is imported by `decode.py` when the first such file comes. Patient data is in the tags:
no message here holds a value of one other than sizes and numbers of frames.
"""

import io
import logging
import re
import warnings
from dataclasses import dataclass

import numpy as np
from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from sa2va_ray.images.checks import check_num_pixels, codec_errors, is_dicom
from sa2va_ray.images.formats.dicom_pixels import (
    GREYS,
    PALETTE,
    Layout,
    is_padding,
    read_layout,
    read_padding,
    read_stored,
)
from sa2va_ray.images.formats.dicom_view import View, read_spacing, read_view
from sa2va_ray.models.sa2va.pixels_sa2va import ImageError, to_8_bits, to_grey

_META_START = 132
_FLOATS = (b"\xe0\x7f\x08\0", b"\xe0\x7f\x09\0")  # tags of pixels that are floating point numbers


@dataclass(frozen=True, repr=False)
class DicomFacts:
    """What a DICOM file says of itself. Has no values in its `repr`, because it names the patient."""

    num_frames: int
    height: int
    width: int
    patient_id: str  # empty where the file has none
    series_uid: str  # empty where the file has none


def read_facts(data: bytes) -> DicomFacts:
    """Reads the header, without any pixels.

    Raises:
        ImageError: the file is broken, has no pixels, or says that they show text.
    """
    with codec_errors(BytesLengthException, InvalidDicomError):
        dataset, _ = _read_header(data)
        layout = read_layout(dataset)
        return DicomFacts(
            num_frames=_num_frames(dataset),
            height=layout.height,
            width=layout.width,
            patient_id=str(dataset.get("PatientID") or ""),
            series_uid=str(dataset.get("SeriesInstanceUID") or ""),
        )


def decode_frame(data: bytes, frame: int, max_pixels: int) -> np.ndarray:
    """One frame as it is meant to be seen -> (H, W) or (H, W, 3) uint8.

    Grey values go through the modality LUT or rescale, then the VOI LUT or window (the first, where there are
    several; the frame's own, where it has one), whose range becomes 0..255. Without these, 8-bit values stay as they
    are, and wider ones are brought to 0..255 from the least to the greatest value of the frame. MONOCHROME1 is
    inverted, so that great is bright everywhere. Padding (`PixelPaddingValue`) does not count as a value, and becomes 0
    in the end. Frames are not subtracted from one another.

    Args:
        frame: from 0.
        max_pixels: height x width up to which a frame is decoded at all.

    Raises:
        ImageError: the file cannot be used, contradicts itself, or says that its pixels show text
            (`BurnedInAnnotation`).
    """
    with codec_errors(BytesLengthException, InvalidDicomError):
        dataset, start = _read_header(data)
        layout = read_layout(dataset)
        check_num_pixels(layout.height, layout.width, max_pixels)
        num_frames = _num_frames(dataset)
        if not 0 <= frame < num_frames:
            raise ImageError("image_frames", f"The file has {num_frames} frames; number {frame} (from 0) is not there.")
        _check_transfer_syntax(dataset.file_meta.TransferSyntaxUID)
        is_grey = layout.photometric in GREYS
        padding = read_padding(dataset, layout) if is_grey else None
        view = read_view(dataset, frame) if is_grey else None
    stored = read_stored(dataset, layout, data, start, frame)
    if view is None:
        return np.ascontiguousarray(to_grey(_colours(stored.values, dataset, layout)))
    inside = None if padding is None else ~is_padding(stored, layout, padding)
    return np.ascontiguousarray(_grey(stored.values, layout, view, inside))


def frame_spacing(data: bytes, frame: int) -> tuple[float, float] | None:
    """From row to row, and from column to column, in millimetres: `PixelSpacing`, the frame's own where it has one,
    else `ImagerPixelSpacing`, that at the detector; None where the file has neither.

    Raises:
        ImageError: the file is broken.
    """
    with codec_errors(BytesLengthException, InvalidDicomError):
        return read_spacing(_read_header(data)[0], frame)


def frame_padding(data: bytes, frame: int, max_pixels: int) -> np.ndarray | None:
    """(H, W) bool of the pixels of a grey frame that are padding (`PixelPaddingValue`); None where the file names no
    such value.

    Args and raises: as `decode_frame`.
    """
    with codec_errors(BytesLengthException, InvalidDicomError):
        dataset, start = _read_header(data)
        layout = read_layout(dataset)
        padding = read_padding(dataset, layout) if layout.photometric in GREYS else None
    if padding is None:
        return None
    check_num_pixels(layout.height, layout.width, max_pixels)
    return is_padding(read_stored(dataset, layout, data, start, frame), layout, padding)


def _read_header(data: bytes) -> tuple[Dataset, int]:
    """All tags before the pixels, and the position of the pixels' own tag."""
    _hush()
    file = io.BytesIO(data)
    if not is_dicom(data):
        raise ImageError("image_unreadable", f"The {len(data)} bytes do not begin as a DICOM file does.")
    file.seek(_META_START)
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    if meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:  # pydicom would inflate all of it, of whatever size
        raise ImageError("dicom_transfer_syntax", "Deflated DICOM files are not read; save it uncompressed.")
    file.seek(0)
    dataset = dcmread(file, stop_before_pixels=True)
    if file.tell() >= len(data):
        raise ImageError("dicom_no_pixels", "The DICOM file has no pixels, or is cut off before them.")
    if data[file.tell() : file.tell() + 4] in _FLOATS:
        raise ImageError("dicom_bits", "The DICOM file has floating point pixels, which are not read; save integers.")
    if "PixelRepresentation" not in dataset:
        dataset.PixelRepresentation = 0  # as viewers do; other tags are read by it
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise ImageError("dicom_burned_in", "The file says that text is burned into its pixels, which may be a name.")
    return dataset, file.tell()


def _hush() -> None:
    """What pydicom logs and warns of quotes values of tags. Said at each call, since others reset such filters."""
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=rf"pydicom|pylibjpeg|openjpeg|{re.escape(__name__)}")


def _num_frames(dataset: Dataset) -> int:
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    if num_frames < 1:
        raise ImageError("image_frames", f"The file says that it has {num_frames} frames.")
    return num_frames


def _check_transfer_syntax(syntax: UID) -> None:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            "dicom_transfer_syntax", "Videos and the like in DICOM are not read; save as JPEG 2000."
        ) from None
    if not decoder.is_available:
        plugins = "; or ".join(decoder.missing_dependencies)
        raise ImageError(
            "dicom_transfer_syntax",
            f"{syntax.name} is not read. Install one of these: {plugins}. The package of gdcm is python-gdcm.",
        )


def _grey(values: np.ndarray, layout: Layout, view: View, inside: np.ndarray | None) -> np.ndarray:
    """(H, W) stored numbers -> uint8. `inside`: (H, W) bool, all but the padding."""
    if inside is not None and not inside.any():
        raise ImageError("dicom_padding", f"All {inside.size} pixels of the frame are padding, by the header.")
    is_plain = (layout.stored, layout.is_signed, view.is_identity) == (8, False, True)
    pixels = values.astype(np.uint8) if is_plain else view.apply(values, inside)
    if layout.photometric == "MONOCHROME1":
        pixels = 255 - pixels
    return pixels if inside is None else pixels * inside


def _colours(values: np.ndarray, dataset: Dataset, layout: Layout) -> np.ndarray:
    """(H, W) palette indices or (H, W, 3) RGB -> (H, W, 3) uint8."""
    bits = layout.stored
    if layout.photometric == PALETTE:
        with codec_errors(BytesLengthException, InvalidDicomError):
            entries = _palette_entries(dataset)
            values = apply_color_lut(values, dataset)[..., :3]
        bits = 16 if entries.max() > 255 else 8
    return values.astype(np.uint8) if bits == 8 else to_8_bits(values, 0, 2**bits - 1)


def _palette_entries(dataset: Dataset) -> np.ndarray:
    """(entries, 3) uint8 or uint16; 8 bits may stand in words of 16, whatever the descriptor says."""
    num_entries, first, bits = (int(number) for number in dataset.RedPaletteColorLookupTableDescriptor)
    num_entries = num_entries or 2**16
    if bits not in (8, 16):
        raise ImageError("dicom_lut", f"A palette of {bits} bits is not read; save it as RGB.")
    entries = apply_color_lut(np.arange(first, first + num_entries), dataset)[..., :3]
    is_wrapped = entries.itemsize == 1 and num_entries > 2**8  # pydicom looks up by numbers of the entries' width
    if is_wrapped or (entries.itemsize == 2 and not dataset.file_meta.TransferSyntaxUID.is_little_endian):
        raise ImageError(
            "dicom_lut",
            f"A palette of {num_entries} entries of {8 * entries.itemsize} bits is not read here; save it as RGB.",
        )
    return entries
