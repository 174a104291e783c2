"""What labels and mask values mean."""

import numpy as np
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.classes import Classes
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.records import Rejected

ARTERY_VEIN = Classes({"artery": ["A", "artery", 1], "vein": ["V", 2], "vessel": ["A", "V", 1, 2], "ignore": [255]})


def test_labels_mean_phrases():
    assert ARTERY_VEIN.phrases_of("A") == ["artery", "vessel"]
    assert ARTERY_VEIN.phrases_of("V") == ["vein", "vessel"]
    assert ARTERY_VEIN.phrases_of("1") == ["artery", "vessel"]  # a category may be called so
    with pytest.raises(Rejected, match="none of the 4 `classes` lists") as caught:
        ARTERY_VEIN.phrases_of("MuellerHans")
    assert "Mueller" not in str(caught.value)


def test_a_mask_value_in_quotes_is_a_label_and_the_reason_says_so():
    with pytest.raises(Rejected, match=r"does not list: 255\. Mask values are written without quotes\."):
        Classes({"vessel": ["255"], "vein": [1]}).masks_of(np.array([[0, 1, 255]]))


def test_mask_values_mean_phrases():
    masks = ARTERY_VEIN.masks_of(np.array([[0, 1, 2, 255]]))
    assert {phrase: mask.astype(int).tolist() for phrase, mask in masks.items()} == {
        "artery": [[0, 1, 0, 0]],
        "vein": [[0, 0, 1, 0]],
        "vessel": [[0, 1, 1, 0]],
        "ignore": [[0, 0, 0, 1]],
    }
    assert list(ARTERY_VEIN.masks_of(np.array([[0, 1]]))) == ["artery", "vessel"]
    with pytest.raises(Rejected, match=r"3 of 5 pixels of the mask have 2 value\(s\) .* 7, 9\."):
        ARTERY_VEIN.masks_of(np.array([[0, 1, 7, 9, 9]]))


def test_colours_mean_phrases():
    classes = Classes({"artery": ["#ff0000", "#00ff00"], "vein": ["#0000FF", "#00ff00"], "ignore": ["#ffffff"]})
    assert (classes.has_colours, classes.has_values) == (True, True)
    masks = classes.masks_of(np.array([[0, 0xFF0000, 0x00FF00, 0x0000FF, 0xFFFFFF]]))
    assert {phrase: mask.sum() for phrase, mask in masks.items()} == {"artery": 2, "vein": 2, "ignore": 1}
    with pytest.raises(Rejected, match="#ff00ff"):
        classes.masks_of(np.array([[0xFF00FF]]))


def test_labels_alone_say_nothing_of_masks():
    assert not Classes({"artery": ["A"]}).has_values


def test_the_config_takes_them_as_they_are_written():
    config = PrepareConfig.load(["source=a", "out=b", "classes={artery: [A, 1], vein: [V, '2']}"])
    assert config.classes == {"artery": ("A", 1), "vein": ("V", "2")}


def test_blanks_unicode_forms_and_the_case_of_ignore_do_not_count():
    config = PrepareConfig(source="a", out="b", classes={" artery": (" A\u0308 ",), "Ignore": (255,)})
    assert config.classes == {"artery": ("\u00c4",), "ignore": (255,)}


def test_an_empty_mask_has_none_of_the_phrases_that_masks_can_have():
    assert Classes({"artery": ["A", 1], "vein": ["V"], "ignore": [255]}).absent() == {"artery": []}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("{artery: [0]}", "0 is the background"),
        ("{artery: ['#000000']}", "0 is the background"),
        ("{artery: [1], 'artery ': [2]}", "has a phrase twice"),
        ("{artery: [1], Artery.: [2]}", "has a phrase twice"),
        ("{artery: [' ']}", "empty label"),
        ('{"a\\0b": [1]}', "control character"),
        ("{artery: ['#ff000']}", "has '#ff000', which has 5 digits behind the #: a colour has six"),
        ("{artery: ['#f00']}", "which has 3 digits"),
        ("{artery: ['#ff0000ff']}", "which has 8 digits"),
        ("{artery: [1], vein: ['#ff0000']}", "read by one of the two"),
        ("{artery: []}", "classes"),
        ("{'': [1]}", "classes"),
        ("{artery: [1.5]}", "classes"),
        ("{artery: [true]}", "classes"),
        ("{artery: 1}", "classes"),
    ],
)
def test_wrong_classes_are_refused(classes, message):
    with pytest.raises(UserError, match=message):
        PrepareConfig.load(["source=a", "out=b", f"classes={classes}"])
