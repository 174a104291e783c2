"""One picture, however it is given: as a file, as a `PIL.Image`, as an array, to the folder's own code."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps, PngImagePlugin

from sa2va_ray.client.encoding import encode_image
from sa2va_ray.images.decode import ImageError, decode_image_bytes
from sa2va_ray.models.sa2va import modeling_sa2va
from sa2va_ray.models.sa2va.generation_sa2va import Segmentation
from sa2va_ray.models.sa2va.pixels_sa2va import image_pixels, rgb_image
from sa2va_ray.predict.predictor import Query, rgb_images

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 30), np.uint8)
COLOURS = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
ALPHA = RANDOM.integers(0, 256, (20, 30), np.uint8)
WIDE = RANDOM.integers(300, 4000, (20, 30), np.uint16)


def saved(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def stretched(values):
    low, high = float(values.min()), float(values.max())
    return np.rint((values.astype(float) - low) * 255 / (high - low)).astype(np.uint8)


def with_palette(**options):
    image = Image.fromarray(GREY % 3)
    image.putpalette([200, 10, 10, 20, 200, 20, 30, 30, 200])
    return saved(image, "PNG", **options)


def of_orientation(number, file_format="PNG", source=COLOURS):
    exif = Image.Exif()
    exif[274] = number
    return saved(Image.fromarray(source), file_format, exif=exif)


FILES = {
    "1": saved(Image.fromarray(GREY > 99), "PNG"),
    "L": saved(Image.fromarray(GREY), "PNG"),
    "LA": saved(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "PNG"),
    "P": with_palette(),
    "P with transparency": with_palette(transparency=1),
    "RGB": saved(Image.fromarray(COLOURS), "PNG"),
    "RGB that is grey": saved(Image.fromarray(np.dstack([GREY] * 3)), "PNG"),
    "RGB with a colour key": saved(Image.fromarray(COLOURS), "PNG", transparency=tuple(map(int, COLOURS[3, 3]))),
    "RGBA": saved(Image.fromarray(np.dstack([COLOURS, ALPHA])), "PNG"),
    "16 bits": saved(Image.fromarray(WIDE), "PNG"),
    "16 bits, TIFF": saved(Image.fromarray(WIDE), "TIFF"),
    "16 bits, big endian": tiff(WIDE, byteorder=">"),
    "16 bits, white is zero": tiff(WIDE, photometric="miniswhite"),
    "8 bits, white is zero": tiff(GREY, photometric="miniswhite"),
    "16 bits, big endian, compressed": tiff(WIDE, byteorder=">", compression="zlib"),
    "int16": tiff(WIDE.astype(np.int16) - 2000),
    "int32": tiff(WIDE.astype(np.int32) - 2000),
    "uint32": tiff(WIDE.astype(np.uint32) * 1_000_000),
    "float": tiff(WIDE.astype(np.float32) / 5000),
    "float, white is zero": tiff(WIDE.astype(np.float32) / 5000, photometric="miniswhite"),
    "JPEG": saved(Image.fromarray(COLOURS), "JPEG"),
    "WebP": saved(Image.fromarray(COLOURS), "WEBP"),
    "BMP": saved(Image.fromarray(COLOURS), "BMP"),
    **{f"EXIF {number}": of_orientation(number) for number in range(2, 9)},
    "EXIF in JPEG": of_orientation(6, "JPEG"),
    "EXIF in WebP": of_orientation(8, "WEBP"),
    "EXIF in TIFF": of_orientation(5, "TIFF"),
    "EXIF, 16 bits": of_orientation(7, "TIFF", WIDE),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_and_its_pil_image_are_the_same_picture(kind):
    data = FILES[kind]
    expected = decode_image_bytes(data, 10_000)
    loaded = opened(data)
    loaded.load()
    for image in (opened(data), loaded):
        np.testing.assert_array_equal(image_pixels(image), expected)
        shown = rgb_image(image)
        assert shown.mode == "RGB"
        np.testing.assert_array_equal(shown, np.dstack([expected] * 3) if expected.ndim == 2 else expected)
    if "white is zero" not in kind and "uint32" not in kind:  # a copy has lost what the tags said
        np.testing.assert_array_equal(image_pixels(loaded.copy()), expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY > 99, (GREY > 99) * np.uint8(255)),
        (GREY, GREY),
        (GREY[..., None], GREY),
        (COLOURS, COLOURS),
        (np.dstack([GREY, ALPHA]), np.rint(GREY * (ALPHA / 255))),
        (np.dstack([COLOURS, ALPHA]), np.rint(COLOURS * (ALPHA[..., None] / 255))),
        (WIDE, stretched(WIDE)),
        (WIDE.astype(">u2"), stretched(WIDE)),
        (np.dstack([WIDE, WIDE, WIDE]), stretched(WIDE)),
        (WIDE.astype(np.int64) - 2000, stretched(WIDE)),
        (WIDE.astype(">i8") - 2000, stretched(WIDE)),
        (WIDE.astype(">u8"), stretched(WIDE)),
        (WIDE.astype(np.float16) / 5000, stretched(WIDE.astype(np.float16) / 5000)),
        (WIDE / 5000, stretched(WIDE)),
    ],
)
def test_arrays(values, expected):
    np.testing.assert_array_equal(image_pixels(values), expected)
    assert rgb_image(values).mode == "RGB"


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N", "I", "F"])
def test_wide_pil_images_are_stretched_as_files_are(mode):
    dtype = {"I;16B": ">u2", "I": np.int32, "F": np.float32}.get(mode, "<u2")
    image = Image.frombytes(mode, (30, 20), WIDE.astype(dtype).tobytes())
    np.testing.assert_array_equal(image_pixels(image), stretched(WIDE))


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr", "HSV", "RGBX"])
def test_ambiguous_modes_are_refused_by_name_as_in_files(mode):
    image = Image.new(mode, (5, 4))
    with pytest.raises(ImageError, match=f"{mode}.*RGB"):
        image_pixels(image)
    if mode in ("CMYK", "LAB", "YCbCr"):
        with pytest.raises(ImageError):
            decode_image_bytes(saved(image, "TIFF"), 10_000)


@pytest.mark.parametrize(
    "data",
    [
        cv2.imencode(".png", np.dstack([WIDE] * 3))[1].tobytes(),
        cv2.imencode(".tiff", np.dstack([WIDE, WIDE, WIDE + 9]))[1].tobytes(),
        tiff((GREY // 2).astype(np.int8)),
        tiff(WIDE.astype(np.int32), byteorder=">", compression="zlib"),
        tiff(WIDE.astype(np.float32), byteorder=">", compression="zlib"),
    ],
)
def test_what_pil_has_lost_is_not_guessed(data):
    with pytest.raises(ImageError, match="array"):
        rgb_image(opened(data))
    with pytest.raises(ValueError, match="path"):
        encode_image(opened(data))
    assert decode_image_bytes(data, 10_000).shape[:2] == (20, 30)


def sgi(values):
    planes = np.moveaxis(np.atleast_3d(values), -1, 0).astype(">u2")
    header = struct.pack(">hBB4H", 474, 0, 2, values.ndim, values.shape[1], values.shape[0], len(planes))
    return header.ljust(512, b"\0") + planes.tobytes()


@pytest.mark.parametrize(
    ("data", "is_wide"),
    [
        (b"P6 30 20 65535\n" + np.dstack([WIDE] * 3).astype(">u2").tobytes(), True),
        (b"P6 30 20 4095\n" + np.dstack([WIDE] * 3).astype(">u2").tobytes(), True),
        (b"P6 30 20 255\n" + COLOURS.tobytes(), False),
        (b"P5 30 20 4095\n" + WIDE.astype(">u2").tobytes(), False),  # kept by PIL, as I
        (cv2.imencode(".jp2", np.tile(np.dstack([WIDE] * 3), (4, 4, 1)))[1].tobytes(), True),
        (cv2.imencode(".jp2", np.tile(COLOURS, (4, 4, 1)))[1].tobytes(), False),
        (sgi(np.dstack([WIDE] * 3)), True),
        (sgi(WIDE), True),
        (cv2.imencode(".tiff", np.dstack([WIDE, WIDE, WIDE + 9]))[1].tobytes(), True),
        (saved(Image.fromarray(COLOURS), "SGI"), False),
    ],
)
def test_formats_that_only_pil_reads_lose_no_bits_in_silence(data, is_wide):
    for read, error, cure in ((image_pixels, ImageError, "array"), (encode_image, ValueError, "path")):
        if is_wide:
            with pytest.raises(error, match=cure):
                read(opened(data))
        else:
            read(opened(data))


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
TEXTS = PngImagePlugin.PngInfo()
TEXTS.add_itxt("XML:com.adobe.xmp", XMP.decode())


@pytest.mark.parametrize(
    ("source", "data"),
    [
        (COLOURS, tiff(COLOURS, extratags=[(700, 1, len(XMP), XMP, True)])),
        (WIDE, tiff(WIDE, extratags=[(700, 1, len(XMP), XMP, True)])),
        (COLOURS, saved(Image.fromarray(COLOURS), "PNG", pnginfo=TEXTS)),
        (COLOURS, saved(Image.fromarray(COLOURS), "WEBP", lossless=True, xmp=XMP)),
    ],
)
def test_an_orientation_in_xmp_does_not_count(source, data):
    for pixels in (decode_image_bytes(data, 10_000), image_pixels(opened(data))):
        np.testing.assert_array_equal(pixels, image_pixels(source))
    np.testing.assert_array_equal(decode_image_bytes(encode_image(opened(data)), 10_000), image_pixels(source))


def closed():
    image = opened(FILES["L"])
    image.close()
    return image


def with_key(mode, key):
    image = Image.fromarray(GREY).convert(mode)
    image.info["transparency"] = key
    return image


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: opened(FILES["RGB"][:-500]), "image_unreadable"),
        (lambda: opened(FILES["JPEG"][:-300]), "image_unreadable"),
        (closed, "image_unreadable"),
        (lambda: Image.new("I", (0, 5)), "image_kind"),
        (lambda: Image.new("L", (0, 5)), "image_kind"),
        (lambda: Image.new("RGB", (5, 0)), "image_kind"),
        (lambda: with_key("P", (1, 2, 3)), "image_mode"),
        (lambda: with_key("1", b"\0\1"), "image_mode"),
    ],
)
def test_what_pil_cannot_give_is_refused_by_its_cause(make, code):
    for read in (image_pixels, rgb_image):
        with pytest.raises(ImageError) as caught:
            read(make())
        assert caught.value.code == code
    with pytest.raises(ValueError, match=r"image|transparency"):
        encode_image(make())


def test_masked_arrays_and_paths_of_nothing_are_refused_by_name():
    with pytest.raises(ImageError, match="masked"):
        image_pixels(np.ma.masked_less(GREY, 9))
    with pytest.raises(ValueError, match="empty"):
        encode_image("")


def test_a_tiff_palette_of_8_bits_in_words_of_16_is_not_black():
    palette = RANDOM.integers(0, 256, (3, 256))
    data = tiff(GREY, photometric="palette", colormap=palette.astype(np.uint16))
    for pixels in (decode_image_bytes(data, 10_000), image_pixels(opened(data))):
        np.testing.assert_array_equal(pixels, palette.T[GREY])
    with pytest.raises(ValueError, match="path"):
        encode_image(opened(data))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 20, 30), np.uint8),  # channels first
        np.zeros((0, 5), np.uint8),
        np.zeros((2, 2, 2, 3), np.uint8),
        np.zeros((4, 4), complex),
        np.array([["a"]]),
        "image.png",
        None,
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ImageError) as caught:
        image_pixels(image)
    assert caught.value.code == "image_kind"


def test_what_cannot_be_seen_or_is_no_number_is_refused():
    for values, code in (
        (np.zeros((4, 4, 4), np.uint8), "image_transparent"),
        (np.full((4, 4), np.nan), "image_values"),
        (np.zeros((4, 4, 4), np.float32), "image_mode"),
    ):
        with pytest.raises(ImageError) as caught:
            image_pixels(values)
        assert caught.value.code == code


def test_an_rgb_image_is_taken_as_it_is_and_one_that_queries_share_is_made_once():
    image = Image.fromarray(COLOURS)
    assert rgb_image(image) is image
    wide = Image.fromarray(WIDE)
    first, second, other = rgb_images([Query(wide, "a"), Query(wide, "b"), Query(image, "c")])
    assert first is second
    assert other is image


def test_exif_that_was_heeded_already_is_not_heeded_again():
    image = ImageOps.exif_transpose(opened(FILES["EXIF 6"]))
    np.testing.assert_array_equal(image_pixels(image), decode_image_bytes(FILES["EXIF 6"], 10_000))


def test_the_models_own_calls_see_the_same_picture(parity, monkeypatch):
    seen = []

    def segment(model, processor, requests, **options):
        seen.append(requests[0].image)
        return [Segmentation("", torch.zeros(0, 20, 30), torch.zeros(0))]

    monkeypatch.setattr(modeling_sa2va, "segment", segment)
    model, tokenizer = parity.loaded.model, parity.loaded.processor.tokenizer
    asked = [{"role": "user", "content": "Please segment it."}]
    for image in (Image.fromarray(WIDE), WIDE):
        model.predict_forward(image=image, text="Please segment it.", tokenizer=tokenizer)
        model.chat(image, asked, tokenizer)
    assert len(seen) == 4
    for image in seen:
        np.testing.assert_array_equal(image, np.dstack([stretched(WIDE)] * 3))
    with pytest.raises(ImageError, match="CMYK"):
        model.chat(Image.new("CMYK", (5, 4)), asked, tokenizer)


@pytest.mark.parametrize("kind", FILES)
def test_the_client_sends_the_same_picture_or_refuses_it(kind):
    for image in (opened(FILES[kind]), opened(FILES[kind]).copy()):
        try:
            sent = encode_image(image)
        except ValueError as error:
            refused = ("16 bits, white is zero", "float, white is zero", "uint32")
            assert ("path" in str(error), kind in refused, hasattr(image, "tag_v2")) == (True,) * 3  # noqa: PT017
        else:
            np.testing.assert_array_equal(decode_image_bytes(sent, 10_000), image_pixels(image))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N", "I", "F", "PA"])
def test_the_client_sends_all_bits(mode):
    dtype = {"I;16B": ">u2", "I": np.int32, "F": np.float32}.get(mode, "<u2")
    image = Image.frombytes(mode, (30, 20), WIDE.astype(dtype).tobytes())
    image.info = {"exif": of_doe(), "Comment": "Doe", "icc_profile": b"Doe"}
    sent = encode_image(image)
    np.testing.assert_array_equal(decode_image_bytes(sent, 10_000), image_pixels(image))
    assert b"Doe" not in sent


def of_doe():
    exif = Image.Exif()
    exif[274], exif[270] = 6, "Doe"
    return exif.tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr", "HSV", "RGBX", "La", "RGBa"])
def test_the_client_refuses_ambiguous_modes_by_name(mode):
    with pytest.raises(ValueError, match=f"kind {mode} .*RGB"):
        encode_image(Image.new(mode, (5, 4)))
