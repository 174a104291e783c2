import csv

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare import private_table
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.records import Annotation, Place, Quarantined, Record
from sa2va_ray.prepare.sources import Source

FILES = ["a.json", "images/doe.png", "images/roe.dcm", "=lonely.png"]
SOURCE = Source(
    {},
    [
        Record(0, "images/doe.png", "", Annotation({}), place=Place(2, 1, ".[0]")),
        Record(1, "images/roe.dcm#4", "", Annotation({}), place=Place(3)),
    ],
    [Quarantined(2, "image_missing", "Gone.", Place(None, 1, ".[1]")), Quarantined(3, "orphan_image", "", Place(4))],
    {},
    FILES,
)


def row(verdict, *codes, **fields):
    return {"verdict": verdict, "findings": [{"code": code, "detail": f"{code}."} for code in codes], **fields}


OUTCOMES = {
    0: row("repaired", "size_rescaled", sample_id="s0"),
    1: row("quarantined", "image_twice", sample_id="s1"),
    2: row("quarantined", "image_missing"),
    3: row("quarantined", "orphan_image"),
}


def config_of(tmp_path):
    (tmp_path / "source").mkdir()
    return PrepareConfig(source=str(tmp_path / "source"), out=str(tmp_path / "out"))


def test_each_item_has_its_file_its_fate_and_its_pseudonym(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("an older one")
    path.chmod(0o644)
    private_table.write(str(path), SOURCE, OUTCOMES)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["item", "source_file", "label_file", "status", "reason", "sample_id"],
        ["0", "images/doe.png", "a.json .[0]", "kept, repaired", "size_rescaled: size_rescaled.", "s0"],
        ["1", "images/roe.dcm#4", "", "duplicate", "image_twice: image_twice.", "s1"],
        ["2", "a.json", "a.json .[1]", "quarantined", "image_missing: image_missing.", ""],
        ["3", "=lonely.png", "", "quarantined", "orphan_image: orphan_image.", ""],
    ]


@pytest.mark.parametrize("place", ["out/table.csv", "source/table.csv", "nowhere/table.csv"])
def test_it_is_refused_where_others_would_read_it_or_nobody_can_write(tmp_path, place):
    with pytest.raises(UserError, match="private_table"):
        private_table.check_place(str(tmp_path / place), config_of(tmp_path))


def test_it_replaces_itself_and_nothing_else(tmp_path):
    config, path = config_of(tmp_path), tmp_path / "table.csv"
    private_table.check_place(str(path), config)
    private_table.write(str(path), SOURCE, OUTCOMES)
    private_table.check_place(str(path), config)
    path.write_text("patient,split\n")
    with pytest.raises(UserError, match="something else"):
        private_table.check_place(str(path), config)
