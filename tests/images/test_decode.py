"""Image files of every kind, whole, broken and hostile."""

import gzip
import io
import logging
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import GifImagePlugin, Image, ImageFile, ImageOps, PngImagePlugin, WebPImagePlugin

from sa2va_ray.images.decode import ImageError, decode_image_bytes, decode_mask_bytes, read_size, to_png

MAX_PIXELS = 1_000_000
GREY = np.random.default_rng(0).integers(0, 256, (20, 40), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (20, 40, 3), np.uint8)
WIDE = np.random.default_rng(2).integers(100, 40_000, (20, 40), np.uint16)
WIDE_RGB = np.random.default_rng(3).integers(100, 40_000, (20, 40, 3), np.uint16)
SMOOTH = cv2.GaussianBlur(RGB, (0, 0), 3)
BLOB = np.zeros((20, 40), bool)
BLOB[5:9, 7:30] = True


def encoded(image, file_format="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def by_cv2(values, extension):
    return cv2.imencode(extension, values[..., ::-1] if values.ndim == 3 else values)[1].tobytes()


def png(width, height, depth, colour_type, raw, *chunks):
    return png_of_packed(width, height, depth, colour_type, zlib.compress(raw), *chunks)


def png_of_packed(width, height, depth, colour_type, packed, *chunks):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png_of_wide(values, colour_type, *chunks):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, colour_type, rows, *chunks)


def stretched(values):
    low, high = float(values.min()), float(values.max())
    return np.rint((values.astype(float) - low) * 255 / (high - low)).astype(np.uint8)


def refusal(data, decode=decode_image_bytes, **options):
    with pytest.raises(ImageError) as caught:
        decode(data, **{"max_pixels": MAX_PIXELS, **options})
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.code


def check(data, expected, **options):
    decoded = decode_image_bytes(data, MAX_PIXELS, **options)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def pnm(kind, values, white=255, comment=b""):
    """A binary PGM (5) or PPM (6), or the same as text (2, 3)."""
    header = b"P%d\n%s%d %d\n%d\n" % (kind, comment, values.shape[1], values.shape[0], white)
    return header + (values.astype(">u2" if white > 255 else ">u1").tobytes() if kind > 3 else text_of(values))


def text_of(values):
    return b"".join(b"%d\n" % value for value in values.ravel())


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize(("mode", "source"), [("1", GREY), ("L", GREY), ("RGB", RGB), ("P", RGB)])
def test_8_bit_images_come_through_exactly(file_format, mode, source):
    image = Image.fromarray(source).convert(mode)
    expected = np.asarray(image.convert("RGB" if source.ndim == 3 else "L"))
    check(encoded(image, file_format), expected)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
def test_compressed_tiff(compression):
    check(encoded(RGB, "TIFF", compression=compression), RGB)


def test_jpeg_is_what_another_reader_makes_of_it():
    data = encoded(SMOOTH, "JPEG", quality=95)
    check(data, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
    check(encoded(GREY, "JPEG"), np.asarray(Image.open(io.BytesIO(encoded(GREY, "JPEG")))))


def test_colours_that_are_grey_become_one_channel():
    check(encoded(np.stack([GREY] * 3, axis=-1)), GREY)
    almost = np.stack([GREY] * 3, axis=-1)
    almost[3, 4, 1] ^= 1
    check(encoded(almost), almost)


@pytest.mark.parametrize("values", [WIDE, WIDE_RGB])
@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_16_bits_are_stretched_without_loss(values, extension):
    check(by_cv2(values, extension), stretched(values))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("values", [WIDE, WIDE_RGB])
def test_uncompressed_16_bit_tiff_of_both_byte_orders(values, byteorder):
    check(tiff(values, byteorder=byteorder, photometric="rgb" if values.ndim == 3 else None), stretched(values))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_signed_and_float_tiff(dtype):
    values = (WIDE.astype(np.int32) - 20_000).astype(dtype) / dtype(1)
    check(tiff(values.astype(dtype)), stretched(values))


def test_faint_details_far_from_zero_are_kept():
    values = (2**30 + np.arange(800).reshape(20, 40) % 256).astype(np.int32)
    check(tiff(values), (np.arange(800).reshape(20, 40) % 256).astype(np.uint8))


def test_a_wide_constant_image_becomes_black():
    check(by_cv2(np.full((20, 40), 777, np.uint16), ".png"), np.zeros((20, 40), np.uint8))


def test_values_that_are_not_finite_are_refused():
    values = WIDE.astype(np.float32)
    values[3, 3] = np.nan
    assert refusal(tiff(values)) == "image_values"
    values[3, 3] = np.inf
    assert refusal(tiff(values)) == "image_values"


def test_planar_16_bit_colours_are_exact_or_refused():
    data = tiff(np.moveaxis(WIDE_RGB, -1, 0).copy(), photometric="rgb", planarconfig="separate")
    try:
        check(data, stretched(WIDE_RGB))
    except ImageError as error:
        assert error.code == "image_mode"  # noqa: PT017


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("source", [GREY, RGB])
def test_opaque_alpha_is_dropped_and_other_alpha_is_laid_over_black(file_format, source):
    alpha = np.full((20, 40), 255, np.uint8)
    check(encoded(np.dstack([source, alpha]), file_format), source)
    alpha[:10] = 51
    expected = source.copy()
    expected[:10] = np.rint(source[:10] * 0.2)
    check(encoded(np.dstack([source, alpha]), file_format), expected)
    assert refusal(encoded(np.dstack([source, alpha * 0]), file_format)) == "image_transparent"


def test_alpha_of_16_bits():
    opaque = np.full((20, 40), 65535, np.uint16)
    check(png_of_wide(np.dstack([WIDE, opaque]), 4), stretched(WIDE))
    check(by_cv2(np.dstack([opaque, WIDE_RGB]), ".png"), stretched(WIDE_RGB))
    half = opaque // 2
    check(png_of_wide(np.dstack([WIDE, half]), 4), stretched(np.rint(WIDE * (half / 65535))))


def test_transparent_palette_entry_and_colour_key():
    image = Image.fromarray(np.arange(800, dtype=np.uint8).reshape(20, 40) % 3)
    image.putpalette([200, 10, 10, 20, 200, 20, 30, 30, 200])
    colours = np.asarray(image.convert("RGB")).copy()
    colours[np.asarray(image) == 1] = 0
    check(encoded(image, transparency=1), colours)
    key = tuple(int(value) for value in RGB[4, 4])
    expected = RGB.copy()
    expected[np.equal(RGB, key).all(axis=-1)] = 0
    check(encoded(RGB, transparency=key), expected)


@pytest.mark.parametrize(("values", "colour_type", "key"), [(WIDE, 0, b"\1\2"), (WIDE_RGB, 2, b"\1\2\3\4\5\6")])
def test_colour_key_of_16_bits_is_refused(values, colour_type, key):
    assert refusal(png_of_wide(values, colour_type, (b"tRNS", key))) == "image_mode"


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_ambiguous_modes_are_refused(mode):
    assert refusal(encoded(Image.new(mode, (5, 4)), "TIFF")) == "image_mode"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    jpeg = encoded(SMOOTH, "JPEG", exif=exif)
    check(jpeg, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg)))))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(RGB, exif=exif)))))
    assert orientation == 1 or not np.array_equal(turned, RGB)
    tag = [(274, "H", 1, orientation, True)]
    check(encoded(RGB, exif=exif), turned)
    check(tiff(RGB, photometric="rgb", extratags=tag), turned)
    wide = RGB.astype(np.uint16) * 100
    check(tiff(wide, photometric="rgb", extratags=tag), stretched(turned.astype(np.uint16) * 100))
    mask = encoded(BLOB, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(mask))))
    np.testing.assert_array_equal(decode_mask_bytes(mask, MAX_PIXELS), expected)


def test_pages():
    pages = np.random.default_rng(5).integers(0, 60_000, (3, 20, 40, 3), np.uint16)
    data = tiff(pages, photometric="rgb")
    assert refusal(data) == refusal(data, frame=3) == refusal(data, frame=-1) == "image_frames"
    check(data, stretched(pages[1]), frame=1)
    narrow = tiff(pages[..., 0].astype(np.uint8), photometric="minisblack")
    check(narrow, pages[2, ..., 0].astype(np.uint8), frame=2)
    check(encoded(GREY), GREY, frame=0)
    assert refusal(encoded(GREY), frame=1) == "image_frames"


def test_animated_png_is_refused():
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    assert refusal(encoded(frames[0], save_all=True, append_images=frames[1:])) == "image_frames"


def test_a_small_page_does_not_hide_a_large_one():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(GREY)
        writer.write(np.zeros((100, 100), np.uint8))
    assert refusal(buffer.getvalue(), frame=1, max_pixels=GREY.size) == "image_too_large"
    check(buffer.getvalue(), GREY, frame=0)


def test_the_limit_is_ours_alone(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for file_format in ("PNG", "JPEG", "BMP"):
        assert decode_image_bytes(encoded(GREY, file_format), GREY.size).shape == GREY.shape
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for file_format in ("PNG", "JPEG", "BMP", "TIFF"):
        assert refusal(encoded(GREY, file_format), max_pixels=GREY.size - 1) == "image_too_large"


def test_bombs_are_refused_before_they_are_decoded():
    rows = zlib.compressobj(1)
    line = b"\0" * 20_001
    packed = b"".join(rows.compress(line) for _ in range(20_000)) + rows.flush()
    real = png_of_packed(20_000, 20_000, 8, 0, packed)
    claimed = png(50_000, 50_000, 8, 2, b"\0")
    bmp = bytearray(encoded(GREY, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    long_chunk = bytearray(SAMPLES["wide png"])
    long_chunk[33] = 255  # the pixels' chunk claims 4 GB
    large_tile = tiff(GREY, tile=(512, 512), compression="zlib")
    start = time.process_time()
    assert {refusal(data) for data in (real, claimed, bytes(bmp))} == {"image_too_large"}
    assert refusal(large_tile, max_pixels=100_000) == "image_too_large"
    assert refusal(bytes(long_chunk)) == "image_unreadable"
    assert time.process_time() - start < 0.5


SAMPLES = {
    "png": encoded(RGB),
    "wide png": by_cv2(WIDE_RGB, ".png"),
    "jpeg": encoded(SMOOTH, "JPEG"),
    "progressive jpeg": encoded(SMOOTH, "JPEG", progressive=True),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
    "lzw tiff": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "wide tiff": by_cv2(WIDE_RGB, ".tiff"),
    "float tiff": tiff(WIDE.astype(np.float32)),
    "tiled tiff": tiff(RGB, tile=(16, 16), photometric="rgb"),
    "gif": encoded(GREY, "GIF"),
    "colour gif": encoded(Image.fromarray(RGB).quantize(64), "GIF", comment=b"a" * 300),
    "pgm": pnm(5, GREY),
    "wide ppm": pnm(6, WIDE_RGB, 40_000),
    "pbm": encoded(BLOB, "PPM"),
    "text pgm": pnm(2, GREY // 26),  # numbers of one digit: that a longer last one is cut off cannot be known
}


@pytest.mark.parametrize("data", [*SAMPLES.values(), encoded(RGB, "WEBP")], ids=[*SAMPLES, "webp"])
def test_the_header_tells_the_size(data):
    assert read_size(data) == decode_image_bytes(data, MAX_PIXELS).shape[:2]
    assert refusal(data[:8], decode=lambda data, max_pixels: read_size(data)) == "image_unreadable"


@pytest.mark.parametrize("kind", SAMPLES)
def test_files_that_are_cut_off_are_refused(kind):
    data = SAMPLES[kind]
    whole = decode_image_bytes(data, MAX_PIXELS)
    lengths = np.unique(np.linspace(0, len(data) - 1, 60).astype(int).tolist() + [len(data) - n for n in (1, 2, 5, 13)])
    for length in lengths:
        try:
            decoded = decode_image_bytes(data[:length], MAX_PIXELS)
        except ImageError as error:
            assert error.code in ("image_unreadable", "image_frames", "image_mode")  # noqa: PT017
        else:
            # These may have something behind the pixels; of a text the last line end.
            assert "tiff" in kind or "bmp" in kind or length == len(data) - 1
            np.testing.assert_array_equal(decoded, whole)


@pytest.mark.parametrize("kind", SAMPLES)
def test_no_file_raises_anything_else(kind):
    random = np.random.default_rng(6)
    for _ in range(60):
        data = np.frombuffer(SAMPLES[kind], np.uint8).copy()
        places = random.integers(0, random.choice([64, len(data)]), random.integers(1, 9))
        data[places % len(data)] = random.integers(0, 256, len(places))
        for decode in (decode_image_bytes, decode_mask_bytes, lambda data, _: read_size(data)):
            try:
                decode(data.tobytes(), MAX_PIXELS)
            except ImageError as error:
                assert error.code  # noqa: PT017


@pytest.mark.parametrize(
    "data", [b"", b"BM", b"II*\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"Doe" * 99, b"GIF89a" * 9]
)
def test_garbage(data):
    assert refusal(data) == refusal(data, decode_mask_bytes) == "image_unreadable"


def chunk(name, data, checksum=None):
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def with_chunks(data, *chunks):
    """A PNG with chunks before its pixels."""
    start = data.index(b"IDAT") - 4
    return data[:start] + b"".join(chunks) + data[start:]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"iCCP", b"rubbish"),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"tEXt", b"Comment\0" + b"a" * 3_000_000),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 1_600_000)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"rubbish")),
        chunk(b"tIME", b"1234567", checksum=1),
        chunk(b"tEXt", b"Comment\0a", checksum=1),
        chunk(b"gAMA", b"\0"),
        chunk(b"pHYs", b""),
        b"".join(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20 - 9))) for _ in range(80)),
    ],
)
def test_chunks_of_png_that_nobody_needs_do_not_matter(extra):
    check(with_chunks(SAMPLES["png"], extra), RGB)
    check(with_chunks(SAMPLES["wide png"], extra), stretched(WIDE_RGB))
    np.testing.assert_array_equal(mask_of(with_chunks(encoded(BLOB), extra)), BLOB)
    behind = SAMPLES["png"].replace(chunk(b"IEND", b""), extra + chunk(b"IEND", b""))
    check(behind, RGB)


def test_chunks_of_png_that_are_needed_do():
    for name in (b"tRNS", b"eXIf"):
        assert refusal(with_chunks(SAMPLES["png"], chunk(name, b"\0\1\0\2\0\3", checksum=1))) == "image_unreadable"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_colour_key_of_few_bits_is_that_of_the_file(bits):
    values = np.arange(2**bits, dtype=np.uint8)[None]
    packed = np.packbits(np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(1, -1), axis=1)
    last = 2**bits - 1
    data = png(2**bits, 1, bits, 0, b"\0" + packed.tobytes(), (b"tRNS", bytes([0, last])))
    check(data, np.where(values == last, 0, values * (255 // last)))


def test_a_png_of_a_million_chunks_is_refused_in_no_time():
    many = with_chunks(SAMPLES["png"], chunk(b"IDAT", b"") * 1_500_000)
    start = time.process_time()
    with pytest.raises(ImageError, match="more than 100000 chunks"):
        decode_image_bytes(many, MAX_PIXELS)
    assert time.process_time() - start < 1
    check(with_chunks(SAMPLES["png"], chunk(b"IDAT", b"") * 10_000), RGB)


def test_gif():
    for image in (Image.fromarray(GREY), Image.fromarray(RGB).quantize(64), Image.fromarray(BLOB)):
        for options in ({}, {"interlace": True}, {"interlace": False}):
            check(encoded(image, "GIF", **options), np.asarray(image.convert("L" if image.mode != "P" else "RGB")))
    data = SAMPLES["gif"]
    assert (
        refusal(data, max_pixels=GREY.size - 1) == refusal(data, decode_mask_bytes, max_pixels=9) == "image_too_large"
    )
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert refusal(animated) == refusal(animated, decode_mask_bytes) == "image_frames"
    assert refusal(data, frame=1) == "image_frames"
    check(encoded(frames[0], "GIF", save_all=True), GREY)


def test_the_size_of_a_gif_is_known_before_pillow_sees_it(monkeypatch):
    data = bytearray(SAMPLES["gif"])
    data[6:10] = b"\xff\xff\xff\xff"
    assert refusal(bytes(data)) == "image_mode"  # an area of 65535 x 65535 px around the image
    box = data.index(b"\x2c\0\0\0\0\x28\0\x14\0")
    data[box + 5 : box + 9] = b"\xff\xff\xff\xff"
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "__init__", None)
    assert refusal(bytes(data)) == "image_too_large"


def test_a_gif_without_end_mark_or_with_padding_before_it_is_read():
    data = SAMPLES["gif"]
    assert data.endswith(b"\0;")
    for other in (data[:-1], data[:-1] + b"\0\0;", data + b"behind the end"):
        check(other, GREY)
    assert refusal(data[:-2]) == "image_unreadable"


def test_a_gif_whose_pixels_end_too_early_is_refused():
    data = SAMPLES["gif"]
    start = data.index(b"\x2c\0\0\0\0\x28\0\x14\0") + 11
    size = data[start]
    assert refusal(data[: start + 1 + size] + b"\0;") == "image_unreadable"


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_pgm_and_ppm_come_through_exactly(kind):
    values, wide = (RGB, WIDE_RGB) if kind in (3, 6) else (GREY, WIDE)
    check(pnm(kind, values), values)
    check(pnm(kind, values, comment=b"# of Doe, 1 2 3\n"), values)
    check(pnm(kind, wide, 40_000), stretched(wide))
    check(pnm(kind, values // 86, 2), np.rint(values // 86 * 127.5).astype(np.uint8))  # as PNG of few bits
    check(pnm(kind, values % 2, 1), values % 2 * 255)
    assert refusal(pnm(kind, values, 99)) == "image_unreadable"  # of which many are greater
    assert refusal(pnm(kind, values), max_pixels=GREY.size - 1) == "image_too_large"
    assert refusal(pnm(kind, values), frame=1) == "image_frames"
    assert kind < 4 or refusal(2 * pnm(kind, values)) == "image_frames"


def test_pbm():
    for data in (
        encoded(BLOB, "PPM"),
        b"P1 #\n40 20\n" + text_of(~BLOB * 1),
        b"P1 40 20 " + b"%d" * 800 % (*~BLOB.ravel(),),
    ):
        check(data, BLOB * np.uint8(255))
        np.testing.assert_array_equal(mask_of(data), BLOB)


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"P5 ",
            b"P5 4",
            b"P5 4 4",
            b"P5 4 4 255",
            b"P4 4 4",
            b"P6 4 4 0\n" + bytes(48),
            b"P5 4 4 70000\n" + bytes(32),
        ),
        *(
            b"P2 2 1 9\n1",
            b"P2 2 1 9\n1 x",
            b"P2 2 1 9\n-1 1",
            b"P2 2 1 9\n1 " + b"9" * 99,
            b"P5 -4 4 255\n" + bytes(16),
            b"P5\r\n4 4\r\n255\r\n" + bytes(16),
        ),
        *(b"P1 2 1\n1", b"P1 2 1\n1 x", b"P1 2 1\n12", b"P2 2 1 9\n", b"P5 " + b"#" * 99),
    ],
)
def test_broken_pnm(data):
    assert refusal(data) in ("image_unreadable", "image_mode")
    assert refusal(data, decode_mask_bytes) in ("image_unreadable", "image_mode")


def test_a_pnm_that_claims_much_is_refused_before_anything_is_allocated():
    claimed = b"P6 999999999 999999999 255\n"
    assert refusal(claimed) == "image_too_large"


def test_a_packed_file_is_told_to_be_unpacked():
    with pytest.raises(ImageError, match="gunzip"):
        decode_image_bytes(gzip.compress(pnm(6, RGB)), MAX_PIXELS)


@pytest.mark.parametrize("lossless", [True, False])
def test_webp(lossless):
    data = encoded(SMOOTH, "WEBP", lossless=lossless)
    check(data, np.asarray(Image.open(io.BytesIO(data))))
    assert refusal(data[: len(data) // 2]) == "image_unreadable"
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    assert refusal(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])) == "image_frames"
    assert refusal(data, max_pixels=GREY.size - 1) == "image_too_large"


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"lossless": True, "exif": Image.Exif()}])
def test_the_size_of_a_webp_is_known_before_it_is_decoded(options, monkeypatch):
    if "exif" in options:
        options["exif"][274] = 1  # makes an extended file (VP8X)
    data = encoded(RGB, "WEBP", **options)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB.shape[0] * RGB.shape[1])
    assert decode_image_bytes(data, 800).shape == RGB.shape
    monkeypatch.setattr(WebPImagePlugin._webp, "WebPAnimDecoder", None)
    assert refusal(data, max_pixels=799) == "image_too_large"


def test_a_palette_that_is_missing():
    assert refusal(png(40, 20, 8, 3, b"".join(b"\0" + row.tobytes() for row in GREY))) == "image_unreadable"


def test_what_follows_the_end_of_a_jpeg_does_not_matter():
    whole = SAMPLES["jpeg"]
    expected = decode_image_bytes(whole, MAX_PIXELS)
    for more in (bytes(99), whole, whole[: len(whole) // 2], b"\xff\xda" * 9):
        check(whole + more, expected)
    exif = Image.Exif()
    exif[270] = "a preview that is cut off \xff\xd8\xff\xda"
    assert refusal(encoded(SMOOTH, "JPEG", exif=exif)[:-2]) == "image_unreadable"


def test_kinds_of_jpeg_that_are_not_read_are_named():
    marker = SAMPLES["jpeg"].index(b"\xff\xc0")
    for place, byte, said in ((marker + 4, 12, "12 bits a sample"), (marker + 1, 0xC3, "lossless")):
        data = bytearray(SAMPLES["jpeg"])
        data[place] = byte
        with pytest.raises(ImageError, match=said) as caught:
            decode_image_bytes(bytes(data), MAX_PIXELS)
        assert caught.value.code == "image_mode"


def test_a_fault_of_this_program_is_not_called_a_broken_file(monkeypatch):
    """What we do with decoded values is not within `codec_errors`, and what is no fault of the data passes it."""
    monkeypatch.setattr("sa2va_ray.images.decode.values_to_pixels", lambda values: values["slip"])
    with pytest.raises(IndexError):
        decode_image_bytes(SAMPLES["png"], MAX_PIXELS)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        decode_image_bytes(SAMPLES["png"], MAX_PIXELS)


def test_what_a_file_says_reaches_no_message(caplog, capfd):
    text = PngImagePlugin.PngInfo()
    text.add_text("PatientName", "Doe^Jane")
    broken = encoded(RGB, pnginfo=text)[:-30]
    described = tiff(WIDE_RGB, photometric="rgb", description="Doe^Jane", software="Doe")
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(ImageError) as caught:
            decode_image_bytes(broken, MAX_PIXELS)
        decode_image_bytes(described, MAX_PIXELS)
    assert "Doe" not in repr(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert b"Doe" not in to_png(decode_image_bytes(described, MAX_PIXELS))


def test_to_png_keeps_the_pixels():
    for pixels in (GREY, RGB):
        check(to_png(pixels), pixels)
        assert to_png(pixels) == to_png(pixels.copy())


def mask_of(data, threshold=None):
    mask = decode_mask_bytes(data, MAX_PIXELS, threshold)
    assert mask.dtype == bool
    return mask


def palette_mask():
    image = Image.fromarray(BLOB * np.uint8(1))
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


def gif_mask(indices, palette):
    image = Image.fromarray(indices * np.uint8(1), "P")
    image.putpalette(palette)
    return image


@pytest.mark.parametrize(
    "data",
    [
        encoded(BLOB),
        encoded(BLOB * np.uint8(1)),
        encoded(BLOB * np.uint8(255), "TIFF"),
        encoded(BLOB * np.uint8(255), "BMP"),
        encoded(palette_mask()),
        encoded(palette_mask(), transparency=0),
        encoded(np.dstack([BLOB * np.uint8(9)] * 3)),
        encoded(np.dstack([BLOB * np.uint8(9)] * 3 + [np.full((20, 40), 255, np.uint8)])),
        by_cv2(BLOB * np.uint16(300), ".png"),
        by_cv2(np.dstack([BLOB * np.uint16(300)] * 3), ".tiff"),
        tiff(BLOB.astype(np.float32)),
        encoded(BLOB * np.uint8(255), "GIF"),
        encoded(gif_mask(BLOB, [0, 0, 0, 255, 255, 255]), "GIF", optimize=False),
        encoded(gif_mask(~BLOB, [255, 255, 255, 0, 0, 0]), "GIF", optimize=False),
        pnm(5, BLOB * np.uint8(1), 1),
        pnm(5, BLOB * np.uint8(255)),
        pnm(6, np.dstack([BLOB * np.uint8(9)] * 3)),
        pnm(5, BLOB * np.uint16(300), 65_535),
    ],
)
def test_masks_of_every_kind(data):
    np.testing.assert_array_equal(mask_of(data), BLOB)


def test_masks_of_one_value():
    assert mask_of(encoded(np.full((4, 5), 7, np.uint8))).all()
    assert not mask_of(encoded(np.zeros((4, 5), np.uint8))).any()


def test_masks_of_more_values_need_a_threshold():
    data = encoded(BLOB * np.uint8(255), "JPEG", quality=50)
    with pytest.raises(ImageError, match=r"different values from 0 to 255.*mask_threshold"):
        mask_of(data)
    np.testing.assert_array_equal(mask_of(data, 128), BLOB)
    edge = encoded(np.array([[99, 100, 101]], np.uint8))
    np.testing.assert_array_equal(mask_of(edge, 100), [[False, True, True]])
    two = encoded(np.array([[50, 200]], np.uint8))  # which of the two is foreground cannot be known
    assert refusal(two, decode_mask_bytes) == "mask_values"
    np.testing.assert_array_equal(mask_of(encoded(BLOB), 128), BLOB)


def test_masks_that_are_not_certain_are_refused():
    assert refusal(encoded(RGB), decode_mask_bytes) == "mask_colours"
    assert refusal(encoded(np.dstack([GREY, GREY])), decode_mask_bytes) == "mask_alpha"
    assert refusal(encoded(palette_mask(), "GIF", optimize=False), decode_mask_bytes) == "mask_colours"
    black_is_clear = encoded(gif_mask(BLOB, [0, 0, 0, 255, 255, 255]), "GIF", optimize=False, transparency=0)
    assert refusal(black_is_clear, decode_mask_bytes) == "mask_alpha"
    assert refusal(tiff(np.stack([GREY, GREY]), photometric="minisblack"), decode_mask_bytes) == "image_frames"
    assert refusal(encoded(BLOB), decode_mask_bytes, max_pixels=BLOB.size - 1) == "image_too_large"


def test_no_global_switch_was_thrown():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
