"""DICOM files of angiography and OCT: what they say of themselves, and one frame at a time as pixels.

Needs the extra `dicom`, and is imported by `images.py` when the first such file comes. Patient data is in the tags:
no message here holds a value of one other than sizes and numbers of frames.
"""

import io
import logging
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_color_lut, apply_windowing, get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from sa2va_ray.data.images import check_num_pixels, codec_errors, is_dicom
from sa2va_ray.models.sa2va.pixels_sa2va import ImageError, to_8_bits, to_grey

_META_START = 132
_PIXEL_DATA_HEADER = 12  # tag, VR and length; compressed files are always of explicit VR
_START_OF_FRAME = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}  # of JPEG; FFF7: JPEG-LS


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
    with codec_errors():
        dataset, _ = _read_header(data)
        return DicomFacts(
            num_frames=_num_frames(dataset),
            height=dataset.Rows,
            width=dataset.Columns,
            patient_id=str(dataset.get("PatientID") or ""),
            series_uid=str(dataset.get("SeriesInstanceUID") or ""),
        )


def decode_frame(data: bytes, frame: int, max_pixels: int) -> np.ndarray:
    """One frame as it is meant to be seen -> (H, W) or (H, W, 3) uint8.

    Grey values go through the modality LUT or rescale, then the VOI LUT or window (the first, where there are
    several; the frame's own, where it has one), whose range becomes 0..255. Without these, 8-bit values stay as they
    are, and wider ones are brought to 0..255 from the least to the greatest value of the frame. MONOCHROME1 is
    inverted, so that great is bright everywhere. Frames are not subtracted from one another.

    Args:
        frame: from 0.
        max_pixels: height x width up to which a frame is decoded at all.

    Raises:
        ImageError: the file cannot be used, or says that its pixels show text (`BurnedInAnnotation`).
    """
    with codec_errors():
        dataset, start = _read_header(data)
        check_num_pixels(dataset.Rows, dataset.Columns, max_pixels)
        num_frames = _num_frames(dataset)
        if not 0 <= frame < num_frames:
            raise ImageError("image_frames", f"The file has {num_frames} frames; number {frame} (from 0) is not there.")
        _check_transfer_syntax(dataset.file_meta.TransferSyntaxUID)
        _check_stored_length(dataset, data, start, frame)
        values = pixel_array(io.BytesIO(data), index=frame)
        if dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
            return np.ascontiguousarray(_grey(values, dataset, frame))
        return np.ascontiguousarray(to_grey(_colours(values, dataset)))


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
    if file.tell() >= len(data) or "Rows" not in dataset:
        raise ImageError("dicom_no_pixels", "The DICOM file has no pixels, or is cut off before them.")
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise ImageError("dicom_burned_in", "The file says that text is burned into its pixels, which may be a name.")
    return dataset, file.tell()


def _hush() -> None:
    """What pydicom logs and warns of quotes values of tags. Said at each call, since others reset such filters."""
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom|pylibjpeg|openjpeg|sa2va_ray\.data\.dicom")


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


def _check_stored_length(dataset: Dataset, data: bytes, start: int, frame: int) -> None:
    """Sees that the pixels are all there, and are those that the header says, before any are decoded."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        expected, present = get_expected_length(dataset), len(data) - start
        if present < expected:
            raise ImageError(
                "image_unreadable", f"The file is cut off: {present} of {expected} bytes of pixels are there."
            )
    elif syntax != RLELossless:
        header = (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
        if _size_in(_compressed_frame(dataset, data, start, frame)) != header:
            raise ImageError(
                "image_unreadable", f"Frame {frame} is not of (height, width, channels) {header}, as the header says."
            )


def _compressed_frame(dataset: Dataset, data: bytes, start: int, frame: int) -> bytes:
    file = io.BytesIO(data)
    file.seek(start + _PIXEL_DATA_HEADER)
    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    return get_frame(
        file, frame, number_of_frames=_num_frames(dataset), extended_offsets=offsets if all(offsets) else None
    )


def _size_in(code: bytes) -> tuple[int, int, int]:
    """(height, width, channels) that a JPEG, JPEG-LS or JPEG 2000 code stream holds, by its own header."""
    if code.startswith(b"\xff\x4f\xff\x51"):
        right, bottom, left, top = struct.unpack_from(">4I", code, 8)
        return bottom - top, right - left, struct.unpack_from(">H", code, 40)[0]
    marker, position = 0xFFD8, 0
    while marker not in _START_OF_FRAME:
        position += 2 + (0 if marker == 0xFFD8 else struct.unpack_from(">H", code, position + 2)[0])
        (marker,) = struct.unpack_from(">H", code, position)
    height, width, channels = struct.unpack_from(">HHB", code, position + 5)
    return height, width, channels


def _grey(values: np.ndarray, dataset: Dataset, frame: int) -> np.ndarray:
    endian = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    values = _to_modality(values, _macro(dataset, frame, "PixelValueTransformationSequence"), endian)
    pixels = _to_view(values, _macro(dataset, frame, "FrameVOILUTSequence"), endian)
    if pixels is None:
        pixels = values if values.dtype == np.uint8 and dataset.BitsStored == 8 else to_8_bits(values)
    return 255 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


def _macro(dataset: Dataset, frame: int, name: str) -> Dataset:
    """Where the attributes of a kind are: in the frame's own group, in that of all frames, or in the file itself."""
    own = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    return next((group[name][0] for group in (*own, *shared) if group.get(name)), dataset)


def _to_modality(values: np.ndarray, macro: Dataset, endian: str) -> np.ndarray:
    if macro.get("ModalityLUTSequence"):
        return _look_up(values, macro.ModalityLUTSequence[0], endian)[0]
    slope, intercept = macro.get("RescaleSlope"), macro.get("RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return values
    return values * float(slope) + float(intercept)


def _to_view(values: np.ndarray, macro: Dataset, endian: str) -> np.ndarray | None:
    """(H, W) uint8 through the VOI LUT or window, None where there is neither."""
    if macro.get("VOILUTSequence"):
        looked_up, table = _look_up(values, macro.VOILUTSequence[0], endian)
        return to_8_bits(looked_up, float(table.min()), float(table.max()))
    center, width = _first(macro.get("WindowCenter")), _first(macro.get("WindowWidth"))
    if center is None or width is None:
        return None
    window = Dataset()  # of an 8-bit image, so that it ends in 0..255
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
    window.WindowCenter, window.WindowWidth = center, width
    window.VOILUTFunction = macro.get("VOILUTFunction") or "LINEAR"
    try:
        return to_8_bits(apply_windowing(values, window), 0, 255)
    except ValueError:
        raise ImageError("dicom_window", f"Window center {center} and width {width} are not usable.") from None


def _first(value: Any) -> float | None:
    """Of one number or several."""
    numbers = [number for number in np.atleast_1d(value) if number is not None]
    return float(numbers[0]) if numbers else None


def _look_up(values: np.ndarray, item: Dataset, endian: str) -> tuple[np.ndarray, np.ndarray]:
    """Values through a lookup table, and the table. pydicom's own wraps around where 8-bit entries number over 256."""
    num_entries, first, _ = item.LUTDescriptor
    num_entries = num_entries or 2**16
    stored = item.LUTData
    if isinstance(stored, bytes):
        stored = np.frombuffer(stored, f"{endian}u2" if len(stored) >= 2 * num_entries else "u1")
    table = np.atleast_1d(np.asarray(stored))[:num_entries]
    if len(table) < num_entries:
        raise ImageError("dicom_lut", f"A lookup table has {len(table)} entries, and says it has {num_entries}.")
    return table[(np.rint(values) - first).clip(0, num_entries - 1).astype(np.intp)], table


def _colours(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """(H, W) palette indices or (H, W, 3) -> (H, W, 3) uint8; `pixel_array` has made RGB of YBR."""
    bits = dataset.BitsStored
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)[..., :3]
        bits = 8 * values.itemsize
    return values if bits == 8 else to_8_bits(values, 0, 2**bits - 1)
