"""Images that a list says to have no object."""

from dataclasses import replace

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.records import Annotation
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_mask


def listed(folder, *lines: str):
    path = folder.parent / "negatives.txt"
    path.write_text("\n".join(lines))
    return replace(OPTIONS, negatives_list=str(path))


def test_listed_images_need_no_label_and_others_stay_orphans(tmp_path):
    folder = tmp_path / "data"
    for stem in ("a", "b", "c", "d"):
        write_image(folder / f"images/{stem}.png")
    for stem in ("a", "b"):
        write_mask(folder / f"masks/{stem}.png")
    source = read_source(str(folder), listed(folder, "images/b.png", "", "images/c.png "))
    assert [(each.name, each.is_listed_negative) for each in source.records] == [
        ("images/a.png", False),
        ("images/b.png", True),
        ("images/c.png", True),
    ]
    assert source.records[2].label == Annotation({})
    assert source.layouts == {"mask_images": 2, "negatives_list": 1}
    assert codes(source) == {"orphan_image": 1}


def test_lines_that_name_no_image_are_told_by_their_numbers(tmp_path):
    folder = tmp_path / "data"
    write_image(folder / "images/a.png")
    with pytest.raises(UserError, match=r"2 line\(s\) .* \(lines 1, 3\)") as caught:
        read_source(str(folder), listed(folder, HIDDEN, "images/a.png", f"images/{HIDDEN}.png"))
    assert HIDDEN not in str(caught.value)


def test_a_list_that_is_missing_is_told(tmp_path):
    write_image(tmp_path / "images/a.png")
    with pytest.raises(UserError, match="`negatives_list` is missing"):
        read_source(str(tmp_path), replace(OPTIONS, negatives_list=str(tmp_path / HIDDEN)))
