import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SCHEMA
from sa2va_ray.prepare.records import Quarantined
from sa2va_ray.prepare.write import SampleWriter, check_replaceable, publish, write_quarantine


def sample(split, number):
    rle = {"size": [2, 2], "counts": "04"}
    row = {
        "sample_id": f"{number:04d}",
        "patient_id": f"p{number % 5}",
        "run_id": "r",
        "frame": number,
        "image": b"png",
    }
    row |= {
        "height": 2,
        "width": 2,
        "objects": [{"phrase": "vessel", "rle": rle}],
        "split": split,
        "source_sha256": "0",
    }
    return pa.Table.from_pylist([row], schema=SCHEMA)


def test_a_row_is_a_row_group_and_a_file_has_at_most_512(tmp_path):
    with SampleWriter(tmp_path) as writer:
        for split, count in (("train", 1025), ("test", 3)):
            for number in range(count):
                writer.write(sample(split, number))
    rows = {file.name: pq.ParquetFile(file).metadata for file in sorted(tmp_path.iterdir())}
    assert {name: metadata.num_rows for name, metadata in rows.items()} == {
        "test-00000.parquet": 3,
        "train-00000.parquet": 512,
        "train-00001.parquet": 512,
        "train-00002.parquet": 1,
    }
    assert all(metadata.num_row_groups == metadata.num_rows for metadata in rows.values())
    assert pq.read_schema(tmp_path / "train-00001.parquet").equals(SCHEMA)
    assert writer.counts() == {
        "train": {"samples": 1025, "patients": 5, "objects": 1025},
        "val": {"samples": 0, "patients": 0, "objects": 0},
        "test": {"samples": 3, "patients": 3, "objects": 3},
    }


def test_quarantine_is_in_the_order_of_the_source(tmp_path):
    write_quarantine(tmp_path, [Quarantined(7, "b", "B."), Quarantined(2, "a", "A.")])
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"index": 2, "code": "a", "reason": "A."}
    assert len(lines) == 2


@pytest.mark.parametrize("place", ["local", "s3"])
def test_only_a_prepared_data_set_is_replaced(place, tmp_path, request):
    out = str(tmp_path / "out") if place == "local" else request.getfixturevalue("bucket_uri")
    new = tmp_path / "new"
    new.mkdir()
    (new / "manifest.json").write_text("new")
    check_replaceable(out)
    for name in ("train-00007.parquet", "manifest.json"):
        storage.write_bytes(storage.join(out, name), b"old")
    check_replaceable(out)
    publish(new, out)
    assert storage.list_files(out) == {"manifest.json": 3}
    assert storage.read_bytes(storage.join(out, "manifest.json")) == b"new"
    storage.write_bytes(storage.join(out, "train-final.parquet"), b"foreign")
    with pytest.raises(UserError, match=r"1 file\(s\), of 2"):
        check_replaceable(out)
