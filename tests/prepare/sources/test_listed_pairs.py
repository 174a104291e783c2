"""Sources whose images and labels a list names."""

from dataclasses import replace

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.sources import read_source
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, codes, write_image, write_json, write_mask


def read_by(folder, lines):
    """The list lies in the source: it is left there."""
    (folder / "list.csv").write_text(lines)
    source = read_source(str(folder), replace(OPTIONS, pairs=str(folder / "list.csv")))
    assert HIDDEN.lower() not in f"{source.records}{source.quarantined}{source.notes}".lower()
    return source


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"img/{HIDDEN}{number}.png")
        write_mask(tmp_path / f"lab/x{number}7.png")
    return tmp_path


@pytest.mark.parametrize(
    "lines",
    [
        "image,label,patient\nimg/{0}1.png,lab/x17.png,P2\nimg/{0}0.png,lab/x07.png,P1\n",
        "\ufeffscore;Label;Image;Patient\r\n0,5;lab\\x17.png;img\\{0}1.png; P2 \r\n"
        ";./lab/x07.png;./img/{0}0.png;P1\r\n;;;\r\n",
    ],
    ids=["plain", "as Excel writes it"],
)
def test_a_list_names_image_label_and_patient(folder, lines):
    source = read_by(folder, lines.format(HIDDEN))
    assert source.layouts == {"pairs": 2}
    assert [record.name for record in source.records] == [f"img/{HIDDEN}0.png", f"img/{HIDDEN}1.png"]
    assert [record.label.uri for record in source.records] == [f"{folder}/lab/x{number}7.png" for number in (0, 1)]
    assert [record.patient for record in source.records] == ["P1", "P2"]
    assert source.quarantined == []
    assert source.notes == [
        "2 images have the label that `pairs` names.",
        "2 image file(s) are in no line of `pairs`, and left.",
    ]


def test_without_a_patient_the_name_tells_it(folder):
    named, unnamed = f"img/{HIDDEN}1.png,lab/x17.png,P2\n", f"img/{HIDDEN}0.png,lab/x07.png\n"
    source = read_by(folder, f"image,label,patient\n{named}{unnamed}")
    assert [record.patient for record in source.records] == [None, "P2"]
    assert "1 of 2 lines of `pairs` name no patient: `patient_pattern` tells it." in source.notes


def test_labels_may_be_of_labelme(folder):
    write_json(folder / "drawn.json", {"shapes": []})
    (record,) = read_by(folder, f"image,label\nimg/{HIDDEN}0.png,drawn.json\n").records
    assert record.label.uri == f"{folder}/drawn.json"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            "image,label\n{0}.png,lab/x07.png\nimg/{0}1.png,lab/x17.png\nimg/{0}2.png,\n",
            r"2 of 3 lines .*: the image is not below `source` \(line 2\); no label is named \(line 4\)\. ",
        ),
        ("image,mask\nimg/{0}0.png,lab/x07.png\n", r"1 of 1 lines .*no label is named .*a line `image,label,patient`"),
        ("image,label\nimg/{0}0.png,img/{0}0.png\n", r"1 of 1 lines .*the image is the label in a line \(line 2\)"),
        (
            "image,label\nimg/{0}0.png,lab/x.png\n{0}.heic,lab/x07.png\nimg/{0}0.png,lab/X.png\n",
            r"the label is not below `source` \(lines 2, 4\); the image is of a kind that is not read \(line 3\)",
        ),
        (
            "image,label\nimg/{0}0.png,lab/x07.png\nlab/x07.png,img/{0}1.png\n",
            r"1 of 2 lines .*: the image is the label in a line \(line 3\)",
        ),
        (
            "image,label\n/data/img/{0}0.png,lab/x07.png\nimg/{0}1.png,C:\\lab\\x17.png\n",
            r"the image is named by its whole path .* \(line 2\); the label is named by its whole path .* \(line 3\)",
        ),
        ("image,label\ns3://b/img/{0}0.png,lab/x07.png\n", "the image is named by its whole path"),
        ("image,label\n", "`pairs` names no image"),
        ("", "`pairs` names no image"),
        ("image,label\n{0}" + 200_000 * "x", "`pairs` is no CSV file"),
        (
            'image,label,patient\nimg/{0}0.png,lab/x07.png,"P1\nimg/{0}1.png,lab/x17.png,P2\n',
            "mark in it is not closed",
        ),
        ('image,label,patient\nimg/{0}0.png,lab/x07.png,"P1\nimg/{0}1.png,lab/x17.png,P2"\n', "lines, up to line 3"),
    ],
)
def test_lines_that_name_nothing_are_told_by_number(folder, lines, told):
    (folder / f"{HIDDEN}.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=told) as refused:
        read_by(folder, lines.format(HIDDEN))
    assert HIDDEN not in str(refused.value)


def test_a_list_that_is_not_there_is_told(folder):
    with pytest.raises(UserError, match="no file at the place that `pairs` names") as refused:
        read_source(str(folder), replace(OPTIONS, pairs=str(folder / HIDDEN)))
    assert HIDDEN not in str(refused.value)


def test_a_list_of_another_encoding_is_told(folder):
    (folder / "list.csv").write_bytes(f"image;label;patient\nimg/{HIDDEN}0.png;lab/x07.png;Süd\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"`pairs` is no text in UTF-8\. Excel") as refused:
        read_source(str(folder), replace(OPTIONS, pairs=str(folder / "list.csv")))
    assert HIDDEN not in str(refused.value)


def test_lines_that_say_the_same_count_once(folder):
    source = read_by(folder, "image,label,patient\n" + f"img/{HIDDEN}0.png,lab/x07.png,A\n" * 3)
    assert len(source.records) == 1
    assert source.quarantined == []
    assert "2 line(s) of `pairs` say what another one says, and are left." in source.notes


def test_what_is_named_twice_is_not_guessed(folder):
    one, two = f"img/{HIDDEN}0.png,lab/x07.png\n", f"img/{HIDDEN}1.png,lab/x07.png\n"
    assert codes(read_by(folder, f"image,label\n{one}{two}")) == {"ambiguous_pair": 2}
    twice = f"image,label,patient\nimg/{HIDDEN}0.png,lab/x07.png,A\nimg/{HIDDEN}0.png,lab/x17.png,B\n"
    assert codes(read_by(folder, twice)) == {"path_twice": 2}


def test_images_that_another_list_names_are_not_said_to_be_left(folder):
    (folder / "negatives.txt").write_text(f"img/{HIDDEN}1.png\n")
    (folder / "list.csv").write_text(f"image,label\nimg/{HIDDEN}0.png,lab/x07.png\n")
    options = replace(OPTIONS, pairs=str(folder / "list.csv"), negatives_list=str(folder / "negatives.txt"))
    assert [note for note in read_source(str(folder), options).notes if "negatives_list" in note]
