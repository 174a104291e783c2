import re

import pytest

from sa2va_ray.prepare.identity import pattern_examples
from sa2va_ray.prepare.identity.pattern_examples import describe_fitting

PATTERN = re.compile(r"patient_pattern='(.+?)' for paths")


@pytest.mark.parametrize("example", [*pattern_examples._EXAMPLES, pattern_examples._EACH_ITS_OWN])
def test_every_example_matches_its_own_path(example):
    match = re.fullmatch(example.pattern, example.like.rpartition(".")[0])
    assert match is not None
    assert match["patient"] == "P4711"
    assert match.groupdict().get("frame", "012") == "012"


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["images/doe-1.png", "images/doe-2.png", "images/roe-1.png"], 2),
        (["doe/1.png", "doe/2.png", "roe/1.png"], 2),
        (["all/doe/left.png", "all/roe/left.png", "all/roe/right.png"], 2),
        (["doe_3_1.png", "roe_3_1.png", "poe_3_1.png"], 3),
        (["imagesTr/case_doe_0.png", "imagesTr/case_doe_1.png", "imagesTs/case_roe_0.png"], 2),
    ],
)
def test_the_first_pattern_fits_and_no_name_is_told(names, patients):
    text = describe_fitting(names, 2)
    assert text.startswith(f"Of {len(names)} path(s), 2 do not match")
    first = re.compile(PATTERN.search(text)[1])
    found = {first.fullmatch(name.rpartition(".")[0])["patient"] for name in names}
    assert len(found) == patients
    assert f"({patients} patient(s) here)" in text
    assert not re.search("doe|roe|poe|all/", text)


def test_the_folder_above_may_be_the_patient():
    text = describe_fitting([f"{name}/{visit} visit/a.final.png" for name in ("doe", "roe") for visit in "123"], 6)
    patterns = {pattern: re.compile(pattern) for pattern in PATTERN.findall(text)}
    assert any(pattern.fullmatch("doe/1 visit/a.final")["patient"] == "doe" for pattern in patterns.values())
    assert "P4711/visit 2/left eye.png (2 patient(s) here)" in text


def test_a_folder_that_holds_all_is_no_patient():
    assert "(1 patient(s) here)" not in describe_fitting(["images/doe.png", "images/roe.png"], 2)


def test_a_part_of_a_data_set_is_no_patient():
    text = describe_fitting(["imagesTr/vessel_001.png", "imagesTr/vessel_002.png", "imagesTs/vessel_003.png"], 3)
    assert PATTERN.findall(text) == [pattern_examples._EACH_ITS_OWN.pattern]
    assert "(2 patient(s) here)" not in describe_fitting(["train/doe.png", "Test/roe.png", "Test/poe.png"], 3)
