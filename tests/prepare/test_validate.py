import hashlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sa2va_ray.data.sample import decode_image, object_masks
from sa2va_ray.prepare.records import Record, Rejected
from sa2va_ray.prepare.validate import MAX_PIXELS, encode_sample, find_duplicates

TRIANGLE = np.array([[2.0, 3.0], [30.0, 5.0], [10.0, 15.0]])


def record(path, *polygons, index=0):
    return Record(index, path.name, path, {"blood vessels": list(polygons) or [TRIANGLE]})


def pixels(channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (20, 40, channels), np.uint8).squeeze()


def rejection(path, *polygons):
    with pytest.raises(Rejected) as caught:
        encode_sample(record(path, *polygons))
    assert path.stem not in str(caught.value)
    return caught.value.code


def test_pixels_and_mask_come_through_exactly(tmp_path):
    path = tmp_path / "doe.png"
    Image.fromarray(pixels()).save(path)
    overlapping = np.array([[5, 4], [35, 4], [35, 18]])
    sample = encode_sample(record(path, TRIANGLE, overlapping))
    np.testing.assert_array_equal(np.asarray(decode_image(sample)), pixels())
    expected = np.zeros((20, 40), np.uint8)
    for polygon in (TRIANGLE, overlapping):
        cv2.fillPoly(expected, [polygon.astype(np.int32)], 1)
    np.testing.assert_array_equal(object_masks(sample)[0], expected.astype(bool))
    assert (sample["height"], sample["width"]) == (20, 40)
    assert sample["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_grey_is_stored_with_one_channel(tmp_path, mode):
    Image.fromarray(pixels(1)).convert(mode).save(tmp_path / "doe.png")
    sample = encode_sample(record(tmp_path / "doe.png"))
    assert Image.open(io.BytesIO(sample["image"])).mode == "L"
    expected = Image.open(tmp_path / "doe.png").convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode_image(sample)), np.asarray(expected))


def test_metadata_is_dropped_and_the_exif_orientation_applied(tmp_path):
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[274], exif[315] = 6, "Doe"  # orientation: turn by 90 degrees clockwise; artist
    text.add_text("PatientName", "Doe")
    Image.fromarray(pixels()).save(tmp_path / "x.png", exif=exif, pnginfo=text)
    sample = encode_sample(record(tmp_path / "x.png", TRIANGLE[:, ::-1]))
    np.testing.assert_array_equal(np.asarray(decode_image(sample)), np.rot90(pixels(), -1))
    assert b"Doe" not in sample["image"]
    assert not Image.open(io.BytesIO(sample["image"])).info


def test_files_that_are_no_images(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(pixels()).save(whole, format="PNG")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[:-200])
    (tmp_path / "plain.png").write_text("no image")
    (tmp_path / "blank.png").touch()
    assert {rejection(tmp_path / f"{name}.png") for name in ("half", "plain", "blank")} == {"image_unreadable"}
    assert {rejection(tmp_path / "none.png"), rejection(tmp_path), rejection(tmp_path / "a\0b")} == {"image_missing"}


def test_a_broken_image_is_rejected_wherever_it_is_broken(tmp_path):
    """Flipped bytes must end as a verdict or an image, never as an exception of the decoder."""
    rng, codes = np.random.default_rng(0), set()
    for suffix in ("png", "jpg", "bmp"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(pixels()).save(path)
        whole = path.read_bytes()
        for _ in range(150):
            broken = bytearray(whole)
            broken[rng.integers(min(len(broken), 120))] = rng.integers(256)
            path.write_bytes(broken[: rng.integers(1, len(broken) + 1)])
            try:
                encode_sample(record(path))
            except Rejected as rejected:
                codes.add(rejected.code)
    assert "image_unreadable" in codes


@pytest.mark.parametrize("side", [8193, 20000])  # checked by us; refused by PIL
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, side):
    assert side * side > MAX_PIXELS
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)), struct.pack(">I", 0) + b"IDAT"]
    (tmp_path / "doe.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert rejection(tmp_path / "doe.png") == "image_too_large"


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_not_cut_to_8(tmp_path, channels):
    cv2.imwrite(str(tmp_path / "doe.png"), pixels(channels).astype(np.uint16) * 200)
    assert rejection(tmp_path / "doe.png") == "image_mode"


def test_transparency_and_several_frames_are_refused(tmp_path):
    Image.fromarray(pixels(4)).save(tmp_path / "doe.png")
    assert rejection(tmp_path / "doe.png") == "image_mode"
    frames = [Image.fromarray(pixels(seed=seed)) for seed in range(2)]
    frames[0].save(tmp_path / "roe.png", save_all=True, append_images=frames[1:])
    assert rejection(tmp_path / "roe.png") == "image_frames"


def test_polygons_must_lie_in_the_image_within_a_pixel(tmp_path):
    path = tmp_path / "doe.png"
    Image.fromarray(pixels()).save(path)
    encode_sample(record(path, np.array([[-1.0, -1.0], [40.0, 0.0], [40.0, 20.0]])))
    assert rejection(path, TRIANGLE, np.array([[0.0, 0.0], [41.0, 0.0], [5.0, 5.0]])) == "polygon_outside"
    assert rejection(path, TRIANGLE * 1e12) == "polygon_outside"
    assert rejection(path, np.array([[40.0, 1.0], [40.0, 5.0], [40.0, 9.0]])) == "empty_mask"


def test_records_of_one_image_are_all_found(tmp_path):
    names = ["a.png", "b.png", "a.png", "c.png"]
    assert find_duplicates([record(tmp_path / name, index=i) for i, name in enumerate(names)]) == {0, 2}
