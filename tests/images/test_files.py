"""What names of files tell."""

import pytest

from sa2va_ray.client import folders
from sa2va_ray.images import files


@pytest.mark.parametrize(
    ("name", "kind", "is_shown"),
    [
        ("a/b.JPG", "JPEG", True),
        ("a/b.tar.tiff", "TIFF", True),
        ("a.png/b", "other", True),
        ("1.2.840", "other", True),
        ("a/.DS_Store", "other", False),
        ("._b.png", "PNG", False),
        ("__MACOSX/b.png", "PNG", False),
        ("a/Thumbs.db", "other", False),
    ],
)
def test_kinds_and_what_nobody_put_there(name, kind, is_shown):
    assert files.kind_of(name) == kind
    assert is_shown is not (files.is_hidden(name) or files.is_rubbish(name))


def test_a_suffix_that_may_be_a_part_of_a_name_is_not_told():
    names = ["a.txt", "b.TXT", "c.heic", "Doe.Jane", "none", "run.mp4"]
    assert files.count_suffixes(names) == {"heic": 1, "mp4": 1, "other": 2, "txt": 2}


def test_the_client_which_stands_alone_knows_the_same_images():
    assert sorted(folders._SUFFIXES) == files.suffixes_of(files.IMAGE_KINDS | {"DICOM"})
