import io
import json

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SCHEMA, object_masks
from sa2va_ray.prepare import write
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.examine import SCHEMA as SCHEMA_OF_OUTCOMES
from sa2va_ray.prepare.examine import Task, examine
from sa2va_ray.prepare.identity.pseudonyms import Identity
from sa2va_ray.prepare.records import Annotation, Place, Quarantined, Record
from sa2va_ray.prepare.report.numbers import build_report
from sa2va_ray.prepare.report.pictures import _worst, draw_pictures

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
    columns += ["annotations_sha256", "pixel_spacing_mm"]
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
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="source was changed while it was read: 1 of 2 files could not be written"):
        write.write_shards(shards, config)


def test_a_file_that_is_gone_in_between_is_told_as_that(shards, config, tmp_path):
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 files could not be written, since a file .* is gone, or may not"):
        write.write_shards(shards, config)


def test_quarantine_lines_are_in_the_order_of_the_source(config):
    outcomes = examine([], [Quarantined(7, "b", "B.", sample_id="s7"), Quarantined(2, "a", "A.")], config)
    places = {2: Place(), 7: Place(3, 1, ".images[4]")}
    lines = [json.loads(line) for line in write.to_quarantine_lines(outcomes.values(), places).splitlines()]
    nowhere = {"sample_id": None, "image_file": None, "label_file": None, "item": None}
    assert lines == [
        {"index": 2, **nowhere, "code": "a", "reason": "A."},
        {"index": 7, "sample_id": "s7", "image_file": 3, "label_file": 1, "item": ".images[4]"}
        | {"code": "b", "reason": "B."},
    ]


@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.cluster)])
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


def test_the_report_keeps_what_was_measured_of_a_rejected_sample(tmp_path, config, ray_cluster):
    """An outer contour around a loop against the mask image of the loop, as the job goes through them."""
    mask = np.zeros((64, 64), np.uint8)
    cv2.circle(mask, (32, 32), 24, 255, 5)
    contour = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0].astype(float)
    for name in ("image", "mask"):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    uris = [str(tmp_path / f"{name}.png") for name in ("image", "mask")]
    empty = Annotation({"vessel": [contour]})
    records = [Record(index, "x", uris[0], empty, mask_uri=uris[1]) for index in range(2)]
    opposite = Annotation({"vessel": [np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])]})
    records.append(Record(2, "x", uris[0], opposite, mask_uri=uris[1]))
    outcomes = examine([Task(each, Identity(f"s{each.index}", "p", "r", 0), "train") for each in records], [], config)
    report = build_report(pa.Table.from_pylist(list(outcomes.values()), schema=SCHEMA_OF_OUTCOMES), {"x": 1})
    assert report["sizes"]["most_frequent"] == [{"height": 64, "width": 64, "count": 3}]
    assert sum(report["mask_dice"]["quarantined"]) == 3
    assert outcomes[2]["mask_dice"] == 0
    pictures = draw_pictures({each.index: each for each in records}, outcomes, config).worst
    assert [picture.caption for picture in pictures] == [
        "item 0: loops_filled",
        "item 1: loops_filled",
        "item 2: polygons_differ",
    ]
    alike = [{**row, "findings": outcomes[0]["findings"]} for row in outcomes.values()]
    assert [row["index"] for row in _worst(alike)] == [2, 0, 1]
