"""DICOM files built in memory, and what their frames must look like."""

import io
import logging
import struct
import subprocess
import sys
import warnings

import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
    XRayAngiographicImageStorage,
)

from sa2va_ray.images.checks import is_dicom
from sa2va_ray.images.decode import ImageError, decode_image_bytes
from sa2va_ray.images.formats.dicom import DicomFacts, decode_frame, read_facts

MAX_PIXELS = 10_000
RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (3, 35, 41), np.uint8)
WORDS = RANDOM.integers(5, 4000, (3, 35, 41), np.uint16)
COLOURS = RANDOM.integers(0, 256, (2, 35, 41, 3), np.uint8)


def dataset(values, bits=None, syntax=ExplicitVRLittleEndian, **tags):
    """(frames, H, W) or (frames, H, W, 3) -> dataset; `bits` are stored of those allocated."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = XRayAngiographicImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
    ds.PatientName, ds.PatientID, ds.SeriesInstanceUID = "Doe^Jane", "H-4711", "1.2.3"
    ds.NumberOfFrames, ds.Rows, ds.Columns = values.shape[:3]
    ds.SamplesPerPixel = 3 if values.ndim == 4 else 1
    if values.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if values.ndim == 4 else "MONOCHROME2"
    ds.BitsAllocated = 8 * values.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    stored = values.astype(values.dtype.newbyteorder(">")) if syntax == ExplicitVRBigEndian else values
    ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    ds["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(ds, name, value)
    return ds


def encapsulated(frames, values, syntax, **tags):
    ds = dataset(values, **tags)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    return ds


def to_bytes(ds):
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def decoded(ds, frame=0):
    pixels = decode_frame(to_bytes(ds), frame, MAX_PIXELS)
    assert pixels.dtype == np.uint8
    return pixels


def item(**tags):
    ds = Dataset()
    for name, value in tags.items():
        setattr(ds, name, value)
    return ds


def table(entries, first, bits, data, vr="US"):
    ds = Dataset()
    ds.add_new("LUTDescriptor", "US", [entries, first, bits])
    ds.add_new("LUTData", vr, data)
    return Sequence([ds])


def stretched(values):
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) * 255 / (high - low)).astype(np.uint8)


def windowed(values, center, width):
    """PS3.3 C.11.2.1.2.1, the window function LINEAR, with output 0..255."""
    return np.rint(np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)).astype(np.uint8)


def refusal(data, frame=0, max_pixels=MAX_PIXELS):
    with pytest.raises(ImageError) as caught:
        decode_frame(data if isinstance(data, bytes) else to_bytes(data), frame, max_pixels)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not any(value in str(caught.value) for value in ("Doe", "4711"))
    return caught.value.code


SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("frame", range(3))
def test_frames(syntax, frame):
    np.testing.assert_array_equal(decoded(dataset(BYTES, syntax=syntax), frame), BYTES[frame])
    np.testing.assert_array_equal(decoded(dataset(WORDS, 12, syntax), frame), stretched(WORDS[frame]))


def test_signed_values():
    values = WORDS.astype(np.int16) - 2000
    np.testing.assert_array_equal(decoded(dataset(values), 1), stretched(values[1]))


def test_monochrome1_is_inverted():
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_array_equal(decoded(dataset(BYTES, **inverted), 1), 255 - BYTES[1])
    np.testing.assert_array_equal(decoded(dataset(WORDS, **inverted), 1), 255 - stretched(WORDS[1]))
    ds = dataset(WORDS, WindowCenter=900, WindowWidth=600, **inverted)
    np.testing.assert_array_equal(decoded(ds), 255 - windowed(WORDS[0], 900, 600))


@pytest.mark.parametrize(("center", "width"), [(2000, 1500), ([2000, 5], [1500, 6])])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_first_window_is_applied(center, width, syntax):
    ds = dataset(WORDS, 12, syntax, WindowCenter=center, WindowWidth=width)
    np.testing.assert_array_equal(decoded(ds, 2), windowed(WORDS[2], 2000, 1500))


def test_window_of_8_bit_frames_and_after_rescale():
    ds = dataset(BYTES, WindowCenter=100, WindowWidth=50)
    np.testing.assert_array_equal(decoded(ds), windowed(BYTES[0], 100, 50))
    ds = dataset(WORDS, WindowCenter=300, WindowWidth=400, RescaleSlope="0.5", RescaleIntercept="-200")
    np.testing.assert_array_equal(decoded(ds), windowed(WORDS[0] * 0.5 - 200, 300, 400))


def test_exact_and_sigmoid_windows():
    ds = dataset(WORDS, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(decoded(ds), np.rint(((WORDS[0] - 2000.0) / 1000 + 0.5).clip(0, 1) * 255))
    ds.VOILUTFunction = "SIGMOID"
    np.testing.assert_array_equal(decoded(ds), np.rint(255 / (1 + np.exp(-4 * (WORDS[0] - 2000.0) / 1000))))


def test_negative_slope_inverts():
    ds = dataset(BYTES, RescaleSlope=-1, RescaleIntercept=255)
    np.testing.assert_array_equal(decoded(ds), stretched(255.0 - BYTES[0]))
    same = dataset(BYTES, RescaleSlope=1, RescaleIntercept=0)
    np.testing.assert_array_equal(decoded(same), BYTES[0])


def test_a_window_of_zeros_is_none():
    np.testing.assert_array_equal(decoded(dataset(WORDS, WindowCenter=0, WindowWidth=0)), stretched(WORDS[0]))


@pytest.mark.parametrize(
    ("center", "width"), [("2000,5", "1500,5"), ("2000,5\\5", "1500,5\\3"), (" 2000.5 ", "1500.5")]
)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_window_with_decimal_commas(center, width, syntax):
    ds = dataset(WORDS, 12, syntax)
    for name, value in (("WindowCenter", center), ("WindowWidth", width)):
        ds.add_new(name, "LO", value)
    data = (
        to_bytes(ds).replace(b"\x28\0\x50\x10LO", b"\x28\0\x50\x10DS").replace(b"\x28\0\x51\x10LO", b"\x28\0\x51\x10DS")
    )
    np.testing.assert_array_equal(decode_frame(data, 0, MAX_PIXELS), windowed(WORDS[0], 2000.5, 1500.5))


@pytest.mark.parametrize("name", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
def test_a_number_that_is_none_is_named(name):
    tags = {"WindowCenter": 5, "WindowWidth": 9, "RescaleSlope": 2, "RescaleIntercept": 1}
    ds = dataset(WORDS, **{key: value for key, value in tags.items() if key != name})
    ds.add_new(name, "LO", "Doe")
    with pytest.raises(ImageError, match=f"{name} is not a number"):
        decode_frame(to_bytes(ds), 0, MAX_PIXELS)
    assert refusal(dataset(WORDS, RescaleSlope=0, RescaleIntercept=1)) == "dicom_number"


@pytest.mark.parametrize("window", [{"WindowCenter": 5, "WindowWidth": 0}, {"WindowCenter": 5, "WindowWidth": -3}])
def test_a_window_that_cannot_be_is_refused(window):
    assert refusal(dataset(WORDS, **window)) == "dicom_window"


def test_a_window_without_value_is_none():
    np.testing.assert_array_equal(decoded(dataset(WORDS, WindowCenter=None, WindowWidth=None)), stretched(WORDS[0]))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("vr", ["US", "OW"])
def test_voi_lut_of_more_entries_than_its_values(vr, syntax):
    entries = (np.arange(3000) // 12).astype(np.uint16)  # 8 bits of value: pydicom's own look-up wraps around at 256
    stored = entries.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    data = entries.tolist() if vr == "US" else stored
    ds = dataset(WORDS, 12, syntax, VOILUTSequence=table(3000, 700, 8, data, vr), WindowCenter=1, WindowWidth=2)
    expected = stretched(entries)[(WORDS[0].astype(int) - 700).clip(0, 2999)]
    np.testing.assert_array_equal(decoded(ds), expected)


def test_voi_lut_of_single_bytes():
    entries = RANDOM.integers(0, 256, 256, np.uint8)
    ds = dataset(BYTES, VOILUTSequence=table(256, 0, 8, entries.tobytes(), "OW"))
    np.testing.assert_array_equal(decoded(ds), stretched(entries)[BYTES[0]])


def test_modality_lut_then_window():
    entries = (np.arange(4096) * 7 % 3001).astype(np.uint16)
    sequence = table(4096, 0, 16, entries.tolist())
    ds = dataset(WORDS, 12, ModalityLUTSequence=sequence, WindowCenter=1500, WindowWidth=2001)
    np.testing.assert_array_equal(decoded(ds), windowed(entries[WORDS[0]].astype(float), 1500, 2001))


def test_a_lut_that_is_too_short_is_refused():
    assert refusal(dataset(WORDS, VOILUTSequence=table(4096, 0, 16, [1, 2, 3]))) == "dicom_lut"


def test_functional_groups_of_enhanced_files():
    def view(center):
        return item(FrameVOILUTSequence=[item(WindowCenter=center, WindowWidth=800)])

    rescale = item(PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-50)])
    ds = dataset(
        WORDS,
        SharedFunctionalGroupsSequence=[rescale],
        PerFrameFunctionalGroupsSequence=[view(500), view(3000), view(1000)],
    )
    np.testing.assert_array_equal(decoded(ds, 1), windowed(WORDS[1] * 2.0 - 50, 3000, 800))
    np.testing.assert_array_equal(decoded(ds, 2), windowed(WORDS[2] * 2.0 - 50, 1000, 800))


RAMP = np.add.outer(np.arange(35) * 40, np.arange(41) * 30).astype(np.uint16)[None]  # 0 to 2,560, of 12 bits
SIGNED_RAMP = RAMP.astype(np.int16) - 1200


def in_syntax(ds, syntax):
    if syntax == RLELossless:
        ds.compress(RLELossless)
    return ds


@pytest.mark.parametrize("syntax", [*SYNTAXES, RLELossless])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
@pytest.mark.parametrize("values", [RAMP, SIGNED_RAMP])
def test_bits_lie_where_the_header_says_whatever_is_beside_them(values, high_bit, syntax):
    shift = high_bit - 11
    overlay = (RANDOM.integers(0, 2**16, RAMP.shape) & ~(0xFFF << shift)).astype(np.uint16)
    cells = (values.view(np.uint16) & 0xFFF) << shift | overlay
    native = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    ds = dataset(cells, 12, native, HighBit=high_bit, PixelRepresentation=int(values is SIGNED_RAMP))
    np.testing.assert_array_equal(decoded(in_syntax(ds, syntax)), stretched(values[0]))


@pytest.mark.parametrize(("stored", "high_bit"), [(12, 9), (12, 16), (20, 19), (0, 0)])
def test_bits_that_do_not_fit_their_cells_are_refused_with_the_numbers(stored, high_bit):
    with pytest.raises(ImageError, match=rf"{stored} bits up to number {high_bit} .* cells of 16"):
        decode_frame(to_bytes(dataset(WORDS, BitsStored=stored, HighBit=high_bit)), 0, MAX_PIXELS)


@pytest.mark.parametrize(
    "name", ["Rows", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"]
)
def test_a_missing_tag_is_named(name):
    ds = dataset(WORDS)
    delattr(ds, name)
    with pytest.raises(ImageError, match=f"does not say {name}"):
        decode_frame(to_bytes(ds), 0, MAX_PIXELS)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_viewers_assume_is_assumed(syntax):
    ds = dataset(padded(4095).astype(np.uint16), 12, syntax)
    ds.add_new("PixelPaddingValue", "US", 4095)
    del ds.PixelRepresentation, ds.HighBit
    outside_is_black(decoded(ds), WORDS[0])


def jpeg2000_of(values, bits, **tags):
    """Values in a code stream of their own sign and of `bits`, under a header of unsigned 12 bits, but for `tags`."""
    code = bytes(encode_array(values, bits_stored=bits))
    header = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    return encapsulated([code], RAMP, JPEG2000Lossless, **{**header, **tags})


@pytest.mark.parametrize("bits", [12, 13, 16])
def test_a_code_stream_may_have_more_bits_than_its_values(bits):
    np.testing.assert_array_equal(decoded(jpeg2000_of(RAMP[0], bits)), stretched(RAMP[0]))
    signed = jpeg2000_of(SIGNED_RAMP[0], bits, PixelRepresentation=1)
    np.testing.assert_array_equal(decoded(signed), stretched(SIGNED_RAMP[0]))


def test_a_code_stream_may_be_of_whole_cells():
    overlaid = RAMP[0] | 0x8000
    np.testing.assert_array_equal(decoded(jpeg2000_of(overlaid, 16)), stretched(RAMP[0]))
    shifted = RAMP[0] << 4 | 5
    np.testing.assert_array_equal(decoded(jpeg2000_of(shifted, 16, HighBit=15)), stretched(RAMP[0]))


@pytest.mark.parametrize(
    ("values", "bits", "tags", "said"),
    [
        (RAMP[0] * 16, 16, {}, r"12 bits \(unsigned\).* 16 bits \(unsigned\)"),
        (RAMP[0], 12, {"BitsStored": 16, "HighBit": 15}, "16 bits .* 12 bits"),
        (RAMP[0], 12, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "8 bits .* 12 bits"),
        (SIGNED_RAMP[0], 12, {}, r"12 bits \(unsigned\).* 12 bits \(signed\)"),
        (SIGNED_RAMP[0].view(np.uint16), 16, {"PixelRepresentation": 1}, r"\(signed\).* 16 bits \(unsigned\)"),
        (SIGNED_RAMP[0].view(np.uint16) & 0xFFF, 12, {"PixelRepresentation": 1}, r"\(signed\).* 12 bits \(unsigned\)"),
    ],
)
def test_header_and_code_stream_that_disagree_are_refused_with_both_numbers(values, bits, tags, said):
    with pytest.raises(ImageError, match=said) as caught:
        decode_frame(to_bytes(jpeg2000_of(values, bits, **tags)), 0, MAX_PIXELS)
    assert caught.value.code == "dicom_bits"


def test_a_sign_that_no_value_has_is_no_disagreement():
    unsigned = jpeg2000_of(RAMP[0] // 2, 12, PixelRepresentation=1)
    np.testing.assert_array_equal(decoded(unsigned), stretched(RAMP[0] // 2))
    signed = jpeg2000_of((RAMP[0] // 2).astype(np.int16), 12)
    np.testing.assert_array_equal(decoded(signed), stretched(RAMP[0] // 2))


def test_jpeg_of_other_bits_than_the_header():
    grey = (RAMP // 11).astype(np.uint8)
    header = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    with pytest.raises(ImageError, match=r"12 bits .* 8 bits"):
        decode_frame(to_bytes(encapsulated(jpeg(grey), grey, JPEGBaseline8Bit, **header)), 0, MAX_PIXELS)
    (code,) = jpeg(grey)
    code = code.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c")
    with pytest.raises(ImageError, match=r"of 12 bits is not read.*pylibjpeg-libjpeg"):
        decode_frame(to_bytes(encapsulated([code], grey, JPEGExtended12Bit, **header)), 0, MAX_PIXELS)


TINTED = np.stack([RAMP[0] // 11, 255 - RAMP[0] // 11, RAMP[0] // 20], axis=-1).astype(np.uint8)
YCC = np.asarray(Image.fromarray(TINTED).convert("YCbCr"))


OF_YCC = 3  # PIL cuts off, not rounds, what it makes of RGB: 1 of Y and 1.772 of Cb, then half a step


def colour_jpeg(stored, marker):
    """Three components as they are given, told to be what `marker` says; `names` are the components' numbers."""
    buffer = io.BytesIO()
    Image.fromarray(stored, "YCbCr").save(buffer, "JPEG", quality=100, subsampling=0)
    code = buffer.getvalue()
    start, end = code.index(b"\xff\xe0"), code.index(b"\xff\xdb")
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    told = {"JFIF": code[start:end], "Adobe RGB": adobe + b"\0", "Adobe YCC": adobe + b"\1", "RGB": b"", "nothing": b""}
    code = code[:start] + told[marker] + code[end:]
    if marker == "RGB":
        frame, scan = code.index(b"\xff\xc0") + 10, code.index(b"\xff\xda") + 5
        code = bytearray(code)
        for channel, name in enumerate(b"RGB"):
            code[frame + 3 * channel] = code[scan + 2 * channel] = name
    return bytes(code)


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("marker", ["JFIF", "Adobe RGB", "Adobe YCC", "RGB", "nothing"])
def test_colours_of_jpeg_are_what_the_code_stream_says_then_what_the_header_says(marker, said):
    is_ycc = said != "RGB" if marker == "nothing" else marker in ("JFIF", "Adobe YCC")
    code = colour_jpeg(YCC if is_ycc else TINTED, marker)
    pixels = decoded(encapsulated([code], TINTED[None], JPEGBaseline8Bit, PhotometricInterpretation=said))
    assert np.abs(pixels.astype(int) - TINTED).max() <= 6  # JPEG of quality 100, and rounding of YCC


@pytest.mark.parametrize("said", ["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL"])
@pytest.mark.parametrize("is_transformed", [True, False])
def test_colours_of_jpeg_2000_by_header_and_code_stream(said, is_transformed):
    stored = YCC if said == "YBR_FULL" else TINTED
    code = bytes(encode_array(stored, photometric_interpretation=1, use_mct=is_transformed))
    ds = encapsulated([code], TINTED[None], JPEG2000Lossless, PhotometricInterpretation=said)
    del ds.PlanarConfiguration  # which says nothing of compressed pixels
    if is_transformed == (said == "YBR_FULL") and said != "RGB":
        with pytest.raises(ImageError, match=f"says {said}.*transformed"):
            decode_frame(to_bytes(ds), 0, MAX_PIXELS)
    else:
        assert np.abs(decoded(ds).astype(int) - TINTED).max() <= (OF_YCC if said == "YBR_FULL" else 0)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"SamplesPerPixel": 1}, "RGB, which has 3 samples a pixel, and 1"),
        ({"PhotometricInterpretation": "MONOCHROME2"}, "MONOCHROME2, which has 1 samples a pixel, and 3"),
        ({"PhotometricInterpretation": "HSV"}, "none of those read"),
        ({"PhotometricInterpretation": "YBR_RCT"}, "YBR_RCT, and the file is no JPEG 2000"),
        ({"PlanarConfiguration": None}, "PlanarConfiguration"),
        ({"PlanarConfiguration": 2}, "PlanarConfiguration"),
    ],
)
def test_colours_that_contradict_themselves_are_refused(tags, said):
    with pytest.raises(ImageError, match=said):
        decode_frame(to_bytes(dataset(COLOURS, **tags)), 0, MAX_PIXELS)


def test_native_ybr_422():
    pairs = np.repeat(TINTED[:, :40:2], 2, axis=1)  # pairs of equal pixels lose nothing
    ycc = np.asarray(Image.fromarray(pairs).convert("YCbCr"))
    stored = np.stack([ycc[:, ::2, 0], ycc[:, 1::2, 0], ycc[:, ::2, 1], ycc[:, ::2, 2]], axis=-1)
    ds = dataset(pairs[None], PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = stored.tobytes()
    assert np.abs(decoded(ds).astype(int) - pairs).max() <= OF_YCC


def test_more_pixels_than_the_header_says_are_refused_with_both_numbers():
    """More come of words that the header calls bytes, of frames that it does not count, of colours in full."""
    words = dataset(RAMP)
    words.BitsAllocated = words.BitsStored = 8
    words.HighBit = 7
    frames = dataset(BYTES, NumberOfFrames=1)
    pairs = dataset(COLOURS[:1, :, :40], PhotometricInterpretation="YBR_FULL_422")
    for ds, said in ((words, r"1435 .* 2870"), (frames, r"1435 .* 4306"), (pairs, r"2800 .* 4200")):
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            ds.file_meta.TransferSyntaxUID = syntax
            ds["PixelData"].VR = "OW"
            with pytest.raises(ImageError, match=said):
                decode_frame(to_bytes(ds), 0, MAX_PIXELS)


def test_floating_point_pixels_are_refused_by_name():
    ds = dataset(WORDS)
    del ds.PixelData
    ds.add_new("FloatPixelData", "OF", WORDS.astype(np.float32).tobytes())
    with pytest.raises(ImageError, match="floating point"):
        decode_frame(to_bytes(ds), 0, MAX_PIXELS)


ROUND = np.add.outer((np.arange(35) - 17.0) ** 2, (np.arange(41) - 20.0) ** 2) < 200


def padded(value, values=WORDS[0]):
    return np.where(ROUND, values, value)[None]


def outside_is_black(pixels, values, **view):
    """Contrast from the pixels inside, 0 outside."""
    low, high = float(values[ROUND].min()), float(values[ROUND].max())
    shown = np.rint((values - low) * 255 / (high - low)).clip(0, 255)
    np.testing.assert_array_equal(pixels, np.where(ROUND, 255 - shown if view.get("inverted") else shown, 0))


@pytest.mark.parametrize("syntax", [*SYNTAXES, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("value", [-2000, 0, 63_000, 65_535])
def test_padding_is_left_out_of_the_contrast_and_becomes_black(value, syntax):
    kind = np.int16 if value < 0 else np.uint16
    native = syntax if syntax in SYNTAXES else ExplicitVRLittleEndian
    ds = dataset(padded(value).astype(kind), None, native, PixelPaddingValue=value)
    if native != syntax:
        ds.compress(syntax)
    outside_is_black(decoded(ds), WORDS[0])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_range_window_and_inversion(photometric):
    tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 60_010, "PixelPaddingRangeLimit": 60_000}
    values = padded(60_000 + RANDOM.integers(0, 11, ROUND.shape)).astype(np.uint16)
    outside_is_black(decoded(dataset(values, **tags)), WORDS[0], inverted=photometric == "MONOCHROME1")
    shown = windowed(WORDS[0], 900, 600)
    shown = 255 - shown if photometric == "MONOCHROME1" else shown
    pixels = decoded(dataset(values, WindowCenter=900, WindowWidth=600, **tags))
    np.testing.assert_array_equal(pixels, np.where(ROUND, shown, 0))


def test_padding_written_with_the_other_sign_or_beyond_the_stored_bits():
    signed = dataset(padded(-2000).astype(np.int16))
    signed.add_new("PixelPaddingValue", "US", 63_536)
    outside_is_black(decoded(signed), WORDS[0])
    unsigned = dataset(padded(63_536).astype(np.uint16))
    unsigned.add_new("PixelPaddingValue", "SS", -2000)
    outside_is_black(decoded(unsigned), WORDS[0])
    bright = np.where(np.eye(35, 41, dtype=bool), 4095, WORDS[0])  # as the stored bits of the padding would be
    beyond = dataset(padded(65_535, bright).astype(np.uint16), 12, PixelPaddingValue=65_535)
    outside_is_black(decoded(beyond), bright)


def test_padding_that_no_cell_can_hold_is_none():
    values = BYTES[:1] // 2  # 4096 and 12 as 8 bits are 0 and 12
    np.testing.assert_array_equal(decoded(dataset(values, PixelPaddingValue=4096)), values[0])
    ranged = decoded(dataset(values, PixelPaddingValue=100, PixelPaddingRangeLimit=4096))
    np.testing.assert_array_equal(ranged, np.where(values[0] < 100, values[0], 0))


def test_padding_of_8_bit_frames_and_a_frame_of_nothing_else():
    ds = dataset(np.where(ROUND, BYTES[0], 255)[None].astype(np.uint8), PixelPaddingValue=255)
    np.testing.assert_array_equal(decoded(ds), np.where(ROUND & (BYTES[0] < 255), BYTES[0], 0))
    assert refusal(dataset(np.full((1, 4, 4), 9, np.uint16), PixelPaddingValue=9)) == "dicom_padding"


def test_frames_that_differ_inside_of_their_padding_only_stay_different():
    frames = [decoded(dataset(padded(65_535, WORDS[n]).astype(np.uint16), PixelPaddingValue=65_535)) for n in (0, 1)]
    assert len(np.unique(frames[0])) > 200
    assert (frames[0] != frames[1])[ROUND].mean() > 0.9


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_bits_beyond_those_stored_are_not_seen(syntax):
    overlaid = WORDS | np.uint16(0x8000) * (RANDOM.random(WORDS.shape) < 0.5)
    ds = dataset(overlaid.astype(np.uint16), 12)
    if syntax == RLELossless:
        ds.compress(RLELossless)
    np.testing.assert_array_equal(decoded(ds), stretched(WORDS[0]))


def test_rle():
    ds = dataset(WORDS, 12)
    ds.compress(RLELossless)
    np.testing.assert_array_equal(decoded(ds, 2), stretched(WORDS[2]))


def jpeg2000(bits=12):
    ds = dataset(WORDS, bits)
    ds.compress(JPEG2000Lossless)
    return ds


def test_jpeg_2000():
    np.testing.assert_array_equal(decoded(jpeg2000(), 1), stretched(WORDS[1]))
    ds = dataset(COLOURS)
    ds.compress(JPEG2000Lossless)
    np.testing.assert_array_equal(decoded(ds, 1), COLOURS[1])


def jpeg(values, **options):
    frames = []
    for frame in values:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", **options)
        frames.append(buffer.getvalue())
    return frames


def test_jpeg():
    smooth = (np.add.outer(np.arange(35), np.arange(41)) * 3).astype(np.uint8)
    grey = np.stack([smooth, 255 - smooth])
    frames = jpeg(grey, quality=95)
    pixels = decoded(encapsulated(frames, grey, JPEGBaseline8Bit), 1)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(frames[1]))))
    colours = np.stack([np.stack([smooth, 255 - smooth, smooth // 2], axis=-1)] * 2)
    frames = jpeg(colours, quality=95)
    pixels = decoded(encapsulated(frames, colours, JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422"))
    assert np.abs(pixels.astype(int) - np.asarray(Image.open(io.BytesIO(frames[0])))).max() <= 2  # rounding of YBR


def test_colours():
    np.testing.assert_array_equal(decoded(dataset(COLOURS), 1), COLOURS[1])
    planar = dataset(COLOURS, PlanarConfiguration=1)
    planar.PixelData = np.moveaxis(COLOURS, -1, 1).tobytes()
    np.testing.assert_array_equal(decoded(planar, 1), COLOURS[1])
    np.testing.assert_array_equal(decoded(dataset(np.repeat(BYTES[..., None], 3, axis=-1))), BYTES[0])
    wide = dataset(COLOURS.astype(np.uint16) * 4, 10)
    np.testing.assert_array_equal(decoded(wide), np.rint(COLOURS[0] * 4.0 * 255 / 1023))


def test_ybr():
    white_and_red = np.array([[[[255, 128, 128], [76, 85, 255]]]], np.uint8)
    pixels = decoded(dataset(white_and_red, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(pixels[0], [[255, 255, 255], [255, 0, 0]], atol=1)


def test_palette():
    palette = RANDOM.integers(0, 256, (256, 3), np.uint8)
    ds = dataset(BYTES, PhotometricInterpretation="PALETTE COLOR")
    for channel, name in enumerate(("Red", "Green", "Blue")):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 8])
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", palette[:, channel].tobytes())
    np.testing.assert_array_equal(decoded(ds, 2), palette[BYTES[2]])


def with_palette(entries, bits, **tags):
    ds = dataset(BYTES, PhotometricInterpretation="PALETTE COLOR", **tags)
    for channel, name in enumerate(("Red", "Green", "Blue")):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(entries) % 2**16, 0, bits])
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", entries[:, channel].tobytes())
    return ds


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_of_8_bits_in_words_of_16(bits):
    palette = RANDOM.integers(0, 256, (256, 3)).astype(np.uint16)
    np.testing.assert_array_equal(decoded(with_palette(palette, bits), 2), palette[BYTES[2]])
    np.testing.assert_array_equal(decoded(with_palette(palette * 257, 16), 2), palette[BYTES[2]])


def test_palettes_that_are_not_read_are_named():
    palette = RANDOM.integers(0, 4096, (256, 3)).astype(np.uint16)
    with pytest.raises(ImageError, match="palette of 12 bits"):
        decoded(with_palette(palette, 12))
    assert refusal(with_palette(RANDOM.integers(0, 256, (300, 3), np.uint8), 8)) == "dicom_lut"
    palette = with_palette(palette, 16)
    palette.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert refusal(palette) == "dicom_lut"


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_the_first_number_of_a_lut_has_the_sign_of_the_pixels(name):
    values = RANDOM.integers(-128, 128, (1, 35, 41)).astype(np.int16)
    entries = (np.arange(256) * 7 % 251).astype(np.uint16)
    ds = dataset(values, **{name: table(256, 65408, 16, entries.tolist())})
    np.testing.assert_array_equal(decoded(ds), stretched(entries)[values[0] + 128])


def test_facts_are_read_and_not_shown():
    facts = read_facts(to_bytes(jpeg2000()))
    assert facts == DicomFacts(3, 35, 41, "H-4711", "1.2.3")
    assert not any(value in repr(facts) + str(facts) for value in ("4711", "1.2.3"))
    ds = dataset(BYTES[:1])
    del ds.NumberOfFrames, ds.PatientID, ds.SeriesInstanceUID
    assert read_facts(to_bytes(ds)) == DicomFacts(1, 35, 41, "", "")


def test_what_cannot_be_used_is_refused():
    assert refusal(dataset(BYTES, BurnedInAnnotation="YES")) == "dicom_burned_in"
    decoded(dataset(BYTES, BurnedInAnnotation="NO"))
    without = dataset(BYTES)
    del without.PixelData
    assert refusal(without) == "dicom_no_pixels"
    assert refusal(dataset(BYTES), frame=3) == refusal(dataset(BYTES), frame=-1) == "image_frames"
    assert refusal(dataset(BYTES), max_pixels=35 * 41 - 1) == "image_too_large"
    assert refusal(dataset(BYTES, Rows=60_000, Columns=60_000)) == "image_too_large"
    assert refusal(dataset(BYTES, Rows=0)) == "image_too_large"
    assert refusal(dataset(BYTES, NumberOfFrames=4), frame=3) == "image_unreadable"


def test_a_missing_plugin_is_named():
    data = to_bytes(encapsulated([b"\0"] * 3, BYTES, JPEGLosslessSV1))
    with pytest.raises(ImageError, match=r"JPEG Lossless.*gdcm") as caught:
        decode_frame(data, 0, MAX_PIXELS)
    assert caught.value.code == "dicom_transfer_syntax"
    assert refusal(encapsulated([b"\0"], BYTES, MPEG4HP41)) == "dicom_transfer_syntax"


def test_deflated_files_are_not_inflated():
    ds = dataset(BYTES)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert refusal(ds) == "dicom_transfer_syntax"


def test_a_frame_larger_than_the_header_says_is_not_decoded():
    data = to_bytes(jpeg2000())
    start = data.index(b"\xff\x4f\xff\x51") + 8
    bomb = data[:start] + struct.pack(">2I", 60_000, 60_000) + data[start + 8 :]
    large = encapsulated(jpeg(np.zeros((2, 300, 400), np.uint8)), BYTES[:2], JPEGBaseline8Bit)
    for hostile in (bomb, to_bytes(large)):
        with pytest.raises(ImageError, match=r"not of \(height, width, channels\) \(35, 41, 1\)"):
            decode_frame(hostile, 0, MAX_PIXELS)


def rle():
    ds = dataset(WORDS, 12)
    ds.compress(RLELossless)
    return ds


SAMPLES = {
    "native": to_bytes(dataset(WORDS, 12, WindowCenter=9, WindowWidth=99)),
    "implicit": to_bytes(dataset(BYTES, syntax=ImplicitVRLittleEndian, VOILUTSequence=table(4, 0, 8, [1, 2, 3, 4]))),
    "colours": to_bytes(dataset(COLOURS)),
    "rle": to_bytes(rle()),
    "jpeg 2000": to_bytes(jpeg2000()),
    "jpeg": to_bytes(encapsulated(jpeg(BYTES), BYTES, JPEGBaseline8Bit)),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_files_that_are_cut_off_are_refused(kind):
    data = SAMPLES[kind]
    last = read_facts(data).num_frames - 1
    whole = decode_frame(data, last, MAX_PIXELS)
    for length in [*np.linspace(0, len(data) - 1, 40).astype(int), *range(len(data) - 40, len(data))]:
        try:
            pixels = decode_frame(data[:length], last, MAX_PIXELS)
        except ImageError:
            continue
        assert len(data) - length <= 10  # padding, and the mark behind the last of the compressed frames
        np.testing.assert_array_equal(pixels, whole)


def test_the_first_frame_of_a_file_that_is_cut_off_is_refused():
    for kind in ("native", "implicit", "colours"):
        assert refusal(SAMPLES[kind][:-100]) == "image_unreadable"


@pytest.mark.parametrize("kind", SAMPLES)
def test_no_file_raises_anything_else(kind):
    random = np.random.default_rng(6)
    for _ in range(40):
        data = np.frombuffer(SAMPLES[kind], np.uint8).copy()
        data[random.integers(132, len(data), random.integers(1, 9))] = random.integers(0, 256)
        for read in (read_facts, lambda data: decode_image_bytes(data, MAX_PIXELS, frame=1)):
            try:
                read(data.tobytes())
            except ImageError as error:
                assert error.code  # noqa: PT017


def test_nothing_of_a_tag_is_logged_or_warned(caplog):
    ds = dataset(BYTES)
    ds.add_new("SeriesInstanceUID", "UI", "1.2.3")
    data = to_bytes(ds).replace(b"1.2.3\0", b"Doe 47").replace(b"ISO", b"Doe")
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_facts(data)
        decode_frame(data, 0, MAX_PIXELS)
    assert "Doe" not in caplog.text + "".join(str(each.message) for each in caught)


@pytest.mark.parametrize(
    "module", ["pydicom.values", "sa2va_ray.images.formats.dicom", "sa2va_ray.images.formats.dicom_view"]
)
def test_what_is_warned_of_while_a_file_is_read_is_not_shown(module):
    """pydicom's warnings quote tags, and are told of whoever called it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_facts(to_bytes(dataset(BYTES)))
        warnings.warn_explicit("Doe", UserWarning, "file.py", 1, module=module)
    assert not caught


def test_images_finds_dicom_by_itself():
    assert is_dicom(SAMPLES["rle"])
    assert not is_dicom(b"\x89PNG")
    np.testing.assert_array_equal(decode_image_bytes(to_bytes(dataset(BYTES)), MAX_PIXELS, frame=2), BYTES[2])
    np.testing.assert_array_equal(decode_image_bytes(to_bytes(dataset(BYTES[1:2])), MAX_PIXELS), BYTES[1])
    with pytest.raises(ImageError, match="3 frames"):
        decode_image_bytes(to_bytes(dataset(BYTES)), MAX_PIXELS)


def test_the_missing_extra_is_named():
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from sa2va_ray.images.decode import ImageError, decode_image_bytes\n"
        "try: decode_image_bytes(bytes(128) + b'DICM', 9)\n"
        "except ImageError as error: print(error.code, error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("dicom_missing")
    assert "sa2va-ray[dicom]" in shown
