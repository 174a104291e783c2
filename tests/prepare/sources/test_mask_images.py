import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.prepare.classes import Classes
from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources import read_source
from sa2va_ray.prepare.sources.mask_images import read_class_mask, read_mask
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_mask


def read_label(record):
    label = pickle.loads(pickle.dumps(record.label))  # it travels to a Ray worker
    with open(label.uri, "rb") as file:
        return label.read(file.read(), label.phrase)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.jpg", "masks/{}.png"),
        ("images/{}.jpg", "masks/{}_mask.png"),
        ("image/{}.tif", "label/{}.tiff"),
        ("img/{}.bmp", "mask/{}.bmp"),
        ("img/{}.jfif", "mask/{}.webp"),
        ("img/{}.webp", "mask/{}.png"),
        ("img/{}.jpe", "mask/{}.png"),
        ("img/{}.pgm", "mask/{}.gif"),
        ("img/{}.ppm", "mask/{}.PGM"),
        ("imgs/{}.JPG", "gt/{}.PNG"),
        ("{}.jpeg", "annotations/{}.png"),
        ("train/images/{}.png", "train/labels/{}.png"),
        ("images/train/{}.png", "labels/train/{}_gt.png"),
        ("{}.png", "{}_mask.png"),
        ("p1/{}.jpg", "p1/{}_label.png"),
        ("images/{}.jpg", "images/{}_seg.png"),
    ],
)
def test_image_and_mask_find_each_other(tmp_path, read, image, mask):
    for stem in (HIDDEN, "x.y"):
        write_image(tmp_path / image.format(stem))
        write_mask(tmp_path / mask.format(stem))
    source = read()
    assert source.layouts == {"mask_images": 2}
    assert source.quarantined == []
    assert [record.name for record in source.records] == [image.format(HIDDEN), image.format("x.y")]
    record = source.records[0]
    assert (record.image_uri, record.label.uri) == (
        str(tmp_path / image.format(HIDDEN)),
        str(tmp_path / mask.format(HIDDEN)),
    )
    assert record.mask_uri is None


def test_a_mask_becomes_one_object_of_the_phrase(tmp_path, read):
    write_image(tmp_path / "images/a.png", (24, 32))
    write_mask(tmp_path / "masks/a.png")
    (record,) = read().records
    label = read_label(record)
    assert (list(label.objects), label.size) == (["vessels"], (12, 16))
    mask = np.zeros((12, 16), bool)
    mask[2:5, 4:9] = True
    np.testing.assert_array_equal(rle_to_mask(label.objects["vessels"][0]), mask)


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (lambda path: path.write_bytes(b"no image"), "mask_unreadable"),
        (lambda path: write_mask(path, (200, 200)), "mask_too_large"),
    ],
)
def test_a_wrong_mask_is_rejected_where_it_is_read(tmp_path, write, code):
    path = tmp_path / f"{HIDDEN}.png"
    write(path)
    with pytest.raises(Rejected) as caught:
        read_mask(path.read_bytes(), "vessels", None, 10_000)
    assert caught.value.code == code
    assert HIDDEN not in str(caught.value)


def test_the_threshold_of_the_options_is_used():
    values = np.array([[0, 99, 100, 255]], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    label = read_mask(buffer.getvalue(), "vessels", 100, 10_000)
    assert rle_to_mask(label.objects["vessels"][0]).tolist() == [[False, False, True, True]]


def test_stems_that_several_share_are_not_paired(tmp_path, read):
    for name in ("images/a.jpg", "images/a.png", "images/b.jpg", "images/c.jpg"):
        write_image(tmp_path / name)
    for name in ("masks/a.png", "masks/b.png", "masks/b_mask.png", "masks/c.png"):
        write_mask(tmp_path / name)
    source = read()
    assert codes(source) == {"ambiguous_pair": 3}
    assert [record.name for record in source.records] == ["images/c.jpg"]


def test_a_name_that_ends_like_a_mask_s_is_an_image_where_its_folder_says_so(tmp_path, read):
    write_image(tmp_path / "images/left_seg.png")
    write_mask(tmp_path / "masks/left_seg.png")
    source = read()
    assert [record.name for record in source.records] == ["images/left_seg.png"]
    assert source.quarantined == []


def test_orphans_come_after_the_items(tmp_path, read):
    for name in ("images/a.png", "images/b.png", "images/c.png"):
        write_image(tmp_path / name)
    for name in ("masks/b.png", f"masks/{HIDDEN}.png", "images/d_mask.png"):
        write_mask(tmp_path / name)
    source = read()
    assert [record.index for record in source.records] == [0]
    found = [(each.index, each.code) for each in source.quarantined]
    assert found == [(1, "orphan_image"), (2, "orphan_image"), (3, "orphan_label"), (4, "orphan_label")]
    assert source.layouts == {"mask_images": 1}


CLASSES = Classes({"artery": [1], "vein": [2], "ignore": [255]})


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM"])
def test_the_values_of_a_mask_are_classes(kind):
    values = Image.fromarray(np.array([[0, 1, 2, 2, 255]], np.uint8))
    label = read_class_mask(encoded(values, kind), "vessels", CLASSES, 10_000)
    assert {phrase: rle_to_mask(rle).sum() for phrase, (rle,) in label.objects.items()} == {"artery": 1, "vein": 2}
    assert (rle_to_mask(label.ignored[0]).sum(), label.size) == (1, (1, 5))


def test_the_indices_of_a_palette_are_classes_and_so_are_its_colours():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    colours = Classes({"artery": ["#ff0000"], "vein": ["#0000ff"]})
    coloured = encoded(image.convert("RGB"))
    for data, classes in ((encoded(image), CLASSES), (encoded(image), colours), (coloured, colours)):
        label = read_class_mask(data, "vessels", classes, 10_000)
        assert {phrase: rle_to_mask(rle).tolist() for phrase, (rle,) in label.objects.items()} == {
            "artery": [[False, True, False]],
            "vein": [[False, False, True]],
        }


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (Image.fromarray(np.array([[0, 1, 3, 3]], np.uint8)), "mask_values"),
        (Image.new("RGB", (4, 1), (1, 2, 3)), "mask_colours"),
        (Image.new("RGBA", (4, 1)), "mask_alpha"),
        (Image.new("L", (200, 200)), "mask_too_large"),
    ],
)
def test_a_class_mask_that_is_not_certain_is_rejected(image, code):
    with pytest.raises(Rejected) as caught:
        read_class_mask(encoded(image), "vessels", CLASSES, 10_000)
    assert caught.value.code == code


def test_masks_are_refused_by_classes_that_list_no_values(tmp_path):
    write_image(tmp_path / "images/a.png")
    write_mask(tmp_path / "masks/a.png")
    options = replace(OPTIONS, classes=Classes({"artery": ["A", "255"]}))
    (record,) = read_source(str(tmp_path), options).records
    with pytest.raises(Rejected, match="does not list: 255"):
        read_label(record)


def test_an_empty_mask_is_about_all_classes():
    label = read_class_mask(encoded(Image.fromarray(np.zeros((2, 3), np.uint8))), "vessels", CLASSES, 10_000)
    assert label.objects == {"artery": [], "vein": []}
