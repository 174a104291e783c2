"""TIFF of every kind, held against its tags: files are written by tifffile, OpenCV and by hand, values known."""

import io
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from sa2va_ray.images.decode import ImageError, decode_image_bytes, decode_mask_bytes

MAX_PIXELS = 1_000_000
SIZE = (19, 23)  # odd, so that rows of 12 bits end within a byte
DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


def random_values(dtype, num_samples):
    shape = SIZE if num_samples == 1 else (*SIZE, num_samples)
    random = np.random.default_rng(num_samples)
    if np.dtype(dtype).kind == "f":
        return (random.random(shape) * 1000 - 200).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def shown(values, photometric="minisblack", opaque=None):
    """What `values` must become, computed with exact integers or as float64."""
    numbers = values.astype(object if values.dtype.kind in "iu" else np.float64)
    if values.ndim == 3 and values.shape[2] in (2, 4):
        numbers, alpha = numbers[..., :-1], values[..., -1:] / opaque
    else:
        alpha = None
    if numbers.ndim == 3 and numbers.shape[2] == 1:
        numbers = numbers[..., 0]
    if photometric == "miniswhite":
        numbers = (opaque or np.iinfo(values.dtype).max if values.dtype.kind == "u" else 0) - numbers
    if alpha is not None:
        numbers = np.rint(numbers.astype(np.float64) * (alpha if numbers.ndim == 3 else alpha[..., 0]))
    if values.dtype == np.uint8:
        return numbers.astype(np.uint8)
    low, high = numbers.min(), numbers.max()
    return np.rint(((numbers - low) * 255 / (high - low)).astype(np.float64)).astype(np.uint8)


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def check(data, expected):
    np.testing.assert_array_equal(decode_image_bytes(data, MAX_PIXELS), expected)


def refusal(data, decode=decode_image_bytes, **options):
    with pytest.raises(ImageError) as caught:
        decode(data, **{"max_pixels": MAX_PIXELS, **options})
    return caught.value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_samples", [1, 2, 3, 4])
def test_every_sample_by_byte_order_compression_and_layout(dtype, num_samples):
    values, colour = random_values(dtype, num_samples), num_samples > 2
    is_unsigned, has_alpha = np.dtype(dtype).kind == "u", num_samples in (2, 4)
    for photometric in ["rgb"] if colour else ["minisblack", "miniswhite"]:
        opaque = np.iinfo(dtype).max if is_unsigned else None
        expected = shown(values, photometric, opaque) if is_unsigned or not has_alpha else None
        for byteorder, compression, planar, tile in [
            (byteorder, compression, planar, tile)
            for byteorder in "<>"
            for compression in (None, "zlib", "lzma")
            for planar in ("contig", "separate")
            for tile in (None, (16, 16))
            if planar == "contig" or num_samples > 1
        ]:
            data = tiff(
                np.moveaxis(values, -1, 0).copy() if planar == "separate" else values,
                photometric=photometric,
                byteorder=byteorder,
                compression=compression,
                predictor=True if compression == "zlib" and values.dtype.kind != "f" and values.itemsize < 8 else None,
                planarconfig=planar if num_samples > 1 else None,
                extrasamples=["unassalpha"] if has_alpha else None,
                rowsperstrip=None if tile else 7,
                tile=tile,
            )
            if expected is None:
                assert refusal(data).code == "image_mode"
            else:
                check(data, expected)


@pytest.mark.parametrize("compression", [1, 5, 32946, 32773])
@pytest.mark.parametrize(("dtype", "predictor"), [("u1", 2), ("u2", 1), ("u2", 2), ("f4", 1), ("f4", 3), ("f8", 3)])
def test_files_of_libtiff(compression, dtype, predictor):
    """Those of OpenCV: LZW, PackBits, and predictors of floats."""
    for num_samples in (1, 3):
        values = random_values(dtype, num_samples)
        options = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
        options += [cv2.IMWRITE_TIFF_PREDICTOR, predictor if compression in (5, 32946) else 1]
        written, data = cv2.imencode(".tiff", values[..., ::-1] if num_samples == 3 else values, options)
        assert written
        check(data.tobytes(), shown(values))


def test_zstandard():
    values, buffer = random_values("uint16", 1), io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", compression="zstd")
    check(buffer.getvalue(), shown(values))


def by_hand(values, bits, byteorder="<", strip=None, **tags):
    """(H, W) numbers, packed with the highest bit first, in one strip."""
    rows = np.unpackbits(values.astype(">u2")[..., None].view(np.uint8), axis=2)[..., 16 - bits :]
    packed = np.packbits(rows.reshape(len(values), -1), axis=1).tobytes() if strip is None else strip
    described = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: 1, 273: 8, 277: 1}
    described |= {278: values.shape[0], 279: len(packed)} | {int(name[1:]): each for name, each in tags.items()}
    named = sorted((tag, value) for tag, value in described.items() if value is not None)
    entries = [struct.pack(f"{byteorder}HHII", tag, 4, 1, value) for tag, value in named]
    start = struct.pack(f"{byteorder}2sHI", b"II" if byteorder == "<" else b"MM", 42, 8 + len(packed) + len(packed) % 2)
    directory = struct.pack(f"{byteorder}H", len(entries)) + b"".join(entries) + bytes(4)
    return start + packed + bytes(len(packed) % 2) + directory


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("compression", [1, 32773])
def test_differences_that_libtiff_does_not_undo(compression, num_samples):
    values = random_values("uint8", num_samples)
    rows = np.diff(values, axis=1, prepend=np.zeros_like(values[:, :1])).reshape(len(values), -1)
    as_packbits = b"".join(bytes([len(row) - 1]) + row.tobytes() for row in rows)
    strip = as_packbits if compression == 32773 else rows.tobytes()
    tags = {"t259": compression, "t317": 2, "t277": num_samples, "t262": 1 if num_samples == 1 else 2}
    check(by_hand(values, 8, strip=strip, **tags), shown(values))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_two_greys_are_refused_where_the_second_is_not_alpha(dtype, photometric):
    for meaning in ("unspecified", None):
        data = tiff(
            random_values(dtype, 2), photometric=photometric, planarconfig="contig", extrasamples=meaning and [meaning]
        )
        assert "2 samples" in refusal(data).reason


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bits", range(9, 16))
def test_samples_of_9_to_15_bits(bits, byteorder):
    values = np.random.default_rng(0).integers(3, 2**bits - 2, SIZE).astype(np.uint16)
    check(by_hand(values, bits, byteorder), shown(values))
    check(by_hand(values, bits, byteorder, t262=0), shown(values, "miniswhite", 2**bits - 1))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_narrow_white_is_zero(bits):
    values = np.random.default_rng(0).integers(0, 2**bits, SIZE).astype(np.uint16)
    check(by_hand(values, bits), values * (255 // (2**bits - 1)))
    check(by_hand(values, bits, t262=0), 255 - values * (255 // (2**bits - 1)))


def test_bits_in_reversed_order():
    values = random_values("uint16", 1)
    stored = np.packbits(np.unpackbits(values.view(np.uint8)).reshape(-1, 8)[:, ::-1]).tobytes()
    check(by_hand(values, 16, strip=stored, t266=2), shown(values))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"t262": None}, "does not say which of its values is white"),
        ({"t262": 32803}, "photometric interpretation 32803"),
        ({"t262": 5}, "photometric interpretation 5"),
        ({"t262": 9}, "photometric interpretation 9"),
        ({"t262": 3}, "photometric interpretation 3"),
        ({"t259": 34712}, "compression 34712"),
        ({"t258": 24}, "24 bits"),
        ({"t339": 4}, "untyped"),
        ({"t339": 6, "t258": 64}, "complex"),
    ],
)
def test_what_is_not_read_is_named_by_its_tags(tags, said):
    error = refusal(by_hand(random_values("uint16", 1), 16, **tags))
    assert error.code == "image_mode"
    assert said in error.reason
    assert "broken" not in error.reason


@pytest.mark.parametrize("kind", ["half", "premultiplied", "unspecified"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_alpha_by_what_the_extra_sample_means(kind, dtype):
    """Premultiplied is what lies over black already; 8-bit colours of that kind go through PIL, which rounds twice."""
    values, opaque = random_values(dtype, 4), np.iinfo(dtype).max
    meaning = {"half": "unassalpha", "premultiplied": "assocalpha", "unspecified": "unspecified"}[kind]
    if kind == "premultiplied":
        values[..., 3] = opaque
    data = tiff(values, photometric="rgb", extrasamples=[meaning])
    check(data, shown(values, opaque=opaque) if kind == "half" else shown(values[..., :3]))


def test_masks_of_wide_white_is_zero():
    mask = np.zeros(SIZE, bool)
    mask[4:9, 3:20] = True
    for dtype in ("uint8", "uint16", "uint32"):
        data = tiff(np.where(mask, 0, np.iinfo(dtype).max).astype(dtype), photometric="miniswhite")
        np.testing.assert_array_equal(decode_mask_bytes(data, MAX_PIXELS), mask)


def test_thumbnails_and_masks_of_a_page_are_passed_over():
    values, buffer = random_values("uint16", 1), io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=True) as writer:
        writer.write(values[::4, ::4], subfiletype=1)
        writer.write(values)
        writer.write(values > 9, subfiletype=4)
    check(buffer.getvalue(), shown(values))
    two = tiff(np.stack([values, values]), photometric="minisblack")
    assert "2 images" in refusal(two).reason


def test_a_mask_image_with_a_thumbnail():
    mask, buffer = np.eye(*SIZE, dtype=bool), io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(mask * np.uint8(255))
        writer.write(mask[::2, ::2] * np.uint8(255), subfiletype=1)
    np.testing.assert_array_equal(decode_mask_bytes(buffer.getvalue(), MAX_PIXELS), mask)


def test_integers_far_from_zero_and_floats_of_great_range():
    few = (2**62 + np.arange(256).reshape(16, 16)).astype(np.int64)
    check(tiff(few), np.arange(256, dtype=np.uint8).reshape(16, 16))
    great = np.array([[-1.7e308, 0, 1.7e308]])
    check(tiff(great), [[0, 128, 255]])


def test_broken_pieces_are_refused_by_what_is_wrong():
    values = random_values("uint16", 1)
    assert "cut off" in refusal(by_hand(values, 16, t279=10**6)).reason
    assert "has 10 of 874 bytes" in refusal(by_hand(values, 16, t279=10)).reason
    assert "lists 0 pieces" in refusal(by_hand(values, 16, t273=None, t279=None)).reason
    assert "0 x" in refusal(by_hand(values, 16, t322=0, t323=0)).reason.replace("23 x 0", "0 x")
    assert "cannot be decompressed" in refusal(by_hand(values, 16, t259=8)).reason
    assert "version is 41" in refusal(b"II\x29\0" + bytes(99)).reason


def test_bombs():
    """A strip that inflates to 256 MB, a directory that comes back to itself, tags that all hold the whole file."""
    packed = zlib.compress(bytes(2**28), 1)
    inflating = by_hand(random_values("uint16", 1), 16, strip=packed, t259=8)
    loop = struct.pack("<2sHIH12sI", b"II", 42, 8, 1, struct.pack("<HHII", 256, 4, 1, 9), 8)
    greedy = b"".join(struct.pack("<HHII", 40_000 + tag, 1, 9_000, 0) for tag in range(20_000))
    hungry = struct.pack("<2sHIH", b"II", 42, 8, 20_000) + greedy + bytes(4)
    start = time.process_time()
    decode_image_bytes(inflating, MAX_PIXELS)
    assert refusal(loop).code == "image_too_large"  # no height
    assert "hold more than" in refusal(hungry).reason
    assert time.process_time() - start < 0.5


def test_orientation_of_samples_that_pillow_does_not_read():
    values = random_values("uint32", 1)
    turned = np.asarray(Image.fromarray(shown(values)).transpose(Image.Transpose.ROTATE_270))
    check(tiff(values, extratags=[(274, "H", 1, 6, True)]), turned)
