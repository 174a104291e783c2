import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SCHEMA, object_masks
from sa2va_ray.prepare import write
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.examine import Task, examine
from sa2va_ray.prepare.pseudonyms import Identity
from sa2va_ray.prepare.records import Annotation, Quarantined, Record

SQUARE = np.array([[4.0, 4.0], [20.0, 4.0], [20.0, 20.0]])


@pytest.fixture
def config(tmp_path):
    return PrepareConfig(source="-", out=str(tmp_path / "out"))


@pytest.fixture
def tasks(tmp_path):
    """Three samples of train, of two patients, and one of test; in no order."""
    found = []
    for index, (patient, frame, split) in enumerate(
        [("b", 7, "train"), ("a", 2, "train"), ("c", 0, "test"), ("a", 1, "train")]
    ):
        path = tmp_path / f"{index}.png"
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (32, 32), np.uint8)).save(path)
        record = Record(index, path.name, str(path), Annotation({"vessel": [SQUARE + index]}))
        found.append(Task(record, Identity(f"s{index}", patient, f"r{patient}", frame), split))
    return found


@pytest.fixture
def shards(tasks, config, ray_cluster):
    return write.plan_shards(tasks, examine(tasks, [], config))


def test_files_are_by_split_and_rows_by_patient_run_and_frame(shards, config, monkeypatch):
    assert [(shard.name, [task.record.index for task in shard.tasks]) for shard in shards] == [
        ("train-00000.parquet", [3, 1, 0]),
        ("test-00000.parquet", [2]),
    ]
    written = write.write_shards(shards, config)
    assert [(each["name"], each["rows"], each["reused"]) for each in written] == [
        ("test-00000.parquet", 1, False),
        ("train-00000.parquet", 3, False),
    ]
    data = storage.read_bytes(storage.join(config.out, "train-00000.parquet"))
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.schema_arrow.equals(SCHEMA)
    assert file.metadata.num_row_groups == 3
    rows = file.read().to_pylist()
    assert [row["frame"] for row in rows] == [1, 2, 7]
    assert object_masks(rows[0])[0].sum() > 100


def test_a_split_larger_than_a_file_goes_on_in_the_next(tasks, config, monkeypatch):
    monkeypatch.setattr(write, "MAX_ROWS_PER_FILE", 2)
    columns = ["sample_id", "patient_id", "run_id", "frame", "split", "source_sha256", "pixels_sha256", "masks_sha256"]
    outcomes = {task.record.index: dict.fromkeys(columns, "x") for task in tasks}
    shards = write.plan_shards(tasks, outcomes)
    assert [(shard.name, len(shard.tasks)) for shard in shards] == [
        ("train-00000.parquet", 2),
        ("train-00001.parquet", 1),
        ("test-00000.parquet", 1),
    ]


def test_a_second_start_writes_only_what_is_not_right(shards, config):
    first = write.write_shards(shards, config)
    uri = storage.join(config.out, "train-00000.parquet")
    before = storage.read_bytes(uri)
    storage.write_bytes(uri, before[:-100])  # cut off
    second = write.write_shards(shards, config)
    assert [each["reused"] for each in second] == [True, False]
    assert [each["sha256"] for each in second] == [each["sha256"] for each in first]
    assert storage.read_bytes(uri) == before


def test_a_source_that_changes_in_between_is_an_error(shards, tasks, config, tmp_path):
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match="1 of 2 files could not be written"):
        write.write_shards(shards, config)


def test_quarantine_lines_are_in_the_order_of_the_source(config):
    outcomes = examine([], [Quarantined(7, "b", "B."), Quarantined(2, "a", "A.")], config)
    lines = [json.loads(line) for line in write.to_quarantine_lines(outcomes.values()).splitlines()]
    assert lines == [{"index": 2, "code": "a", "reason": "A."}, {"index": 7, "code": "b", "reason": "B."}]


@pytest.mark.parametrize("place", ["local", "s3"])
def test_only_a_prepared_data_set_is_replaced(place, tmp_path, request):
    out = str(tmp_path / "out") if place == "local" else request.getfixturevalue("bucket_uri")
    write.check_replaceable(out)
    ours = (
        "train-00007.parquet",
        "manifest.json",
        "report.html",
        "validation/report.json",
        "test-00000.parquet.partial",
    )
    for name in ours:
        storage.write_bytes(storage.join(out, name), b"old")
    write.check_replaceable(out)
    write.clear(out, keep=["train-00007.parquet"])
    assert storage.list_files(out) == {"train-00007.parquet": 3}
    storage.write_bytes(storage.join(out, "train-final.parquet"), b"foreign")
    with pytest.raises(UserError, match=r"1 file\(s\), of 2"):
        write.check_replaceable(out)
