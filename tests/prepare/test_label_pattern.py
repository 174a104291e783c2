"""From the path of an image to that of its label."""

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.label_pattern import LabelPattern


@pytest.mark.parametrize(
    ("pattern", "image", "label"),
    [
        ("labels/{stem}_vessel.png", "images/a.b.jpg", "labels/a.b_vessel.png"),
        ("{folder}/{stem}.mask.png", "p1/run/7.tif", "p1/run/7.mask.png"),
        ("{folder}/{stem}.mask.png", "7.tif", "7.mask.png"),
        ("{parent}/masks/{stem}.gif", "p1/images/7.tif", "p1/masks/7.gif"),
        ("{parent}/masks/{stem}.gif", "images/7.tif", "masks/7.gif"),
        ("{folder}/../masks/{stem}.gif", "p1/images/7.tif", "p1/masks/7.gif"),
        ("images/{id}_*.tif -> manual/{id}_manual1.gif", "images/21_training.tif", "manual/21_manual1.gif"),
        ("images/{id}_*.tif->manual/{id}_manual1.gif", "images/21_training.tif", "manual/21_manual1.gif"),
        ("images/{id}_*.tif -> manual/{id}_manual1.gif", "images/21.tif", None),
        ("images/{id}_*.tif -> manual/{id}_manual1.gif", "more/images/21_x.tif", None),
        ("{folder}/{id}_*.tif -> {folder}/{id}_m.gif", "more/images/21_x.tif", "more/images/21_m.gif"),
        ("{folder}/{id}_*.tif -> {folder}/{id}_m.gif", "21_x.tif", "21_m.gif"),
        ("{p}/{p}_{n}.png -> {p}/{n}.json", "p1/p1_7.png", "p1/7.json"),
        ("{p}/{p}_{n}.png -> {p}/{n}.json", "p1/p2_7.png", None),
        ("a+b/{n}.png -> c/{n}.png", "aab/7.png", None),
        ("{p}/{stem}.* -> {p}/{stem}_v.png", "p1/IMG (3).final.jpg", "p1/IMG (3).final_v.png"),
    ],
)
def test_label_of(pattern, image, label):
    assert LabelPattern(pattern).label_of(image) == label


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "neither LABEL nor IMAGE -> LABEL"),
        ("a -> b -> c", "neither"),
        ("labels/{name}.png", r"part \{name\}, and of an image are known \{folder\}, \{parent\}, \{stem\}"),
        ("a/{id}.png -> b/{stem}.png", r"part \{stem\}, and of an image are known \{id\}"),
        ("labels/mask.png", "one label for all images"),
        ("labels/{stem.png", "a brace that belongs to no"),
        ("{1}.png -> {1}_gt.png", r"part \{1\}, whose name has to begin with a letter"),
        ("labels/{stem}*.png", "of which there must be one"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused_where_the_config_is_read(pattern, message):
    with pytest.raises(UserError, match=f"label_pattern.*{message}"):
        PrepareConfig.load(["source=a", "out=b", f"label_pattern='{pattern}'"])


def test_thirty_wildcards_do_not_take_for_ever():
    name = "a_" * 60  # with Python's `re`, minutes each
    many = LabelPattern("images/" + "*" * 30 + "{id}_v.tif -> labels/{id}.png")
    assert many.label_of(f"images/{name}.tif") is None
    many = LabelPattern("images/{id}" + "_*" * 30 + "v.tif -> labels/{id}.png")
    assert many.label_of(f"images/{name}.tif") is None
    assert many.label_of(f"images/{name}v.tif") == "labels/a.png"


def test_its_example_is_made_up_of_its_own_parts():
    assert LabelPattern("labels/{stem}_v.png").example == ("p7/images/im7.png", "labels/im7_v.png")
    assert LabelPattern("images/{id}_*.tif -> m/{id}.gif").example == ("images/7_x.tif", "m/7.gif")
