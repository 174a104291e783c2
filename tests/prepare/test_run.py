"""The whole job, on a real Ray cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from sa2va_ray.config import UserError
from sa2va_ray.data.masks import polygons_to_mask
from sa2va_ray.data.sample import SCHEMA, decode_image, object_masks
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.manifest import digest, read_manifest, sha256_of_file, verify_files
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.pseudonyms import KEY_VARIABLE
from sa2va_ray.prepare.run import prepare

ROOT = Path(__file__).parents[2]
SIZE = 64
NAMES = ("synth0", "MuellerHans", "hospital")  # of patients, and of the source folder
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """24 good samples and 5 that belong in quarantine."""
    folder = tmp_path_factory.mktemp("hospital") / "data"
    write_synthetic_dataset(folder, size=SIZE)
    items = json.loads((folder / "annotations.json").read_text())
    first = folder / items[0]["image"]
    names = [f"images/MuellerHans_frame_{frame}.jpg" for frame in (1, 2, 2)] + ["images/MuellerHans.jpg"]
    for name in names:
        (folder / name).write_bytes(first.read_bytes())
    (folder / "images/MuellerHans_frame_9.jpg").write_bytes(first.read_bytes()[:500])
    wrong = [{"image": name, "mask": [{"segmentation": SQUARE}]} for name in [*names, "images/MuellerHans_frame_9.jpg"]]
    wrong[0]["mask"][0]["segmentation"] = [[1, 2, 3, 4]]
    (folder / "annotations.json").write_text(json.dumps(wrong + items))
    return folder


@pytest.fixture(scope="module")
def job(source, ray_cluster, tmp_path_factory):
    """The job as a user starts it, with the output folder and all that it printed."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    arguments = [f"source={source}", f"out={out}", "max_quarantined_fraction=0.2", "test_fraction=0.3"]
    environment = {KEY_VARIABLE: "key", "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "jobs.prepare", *arguments]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out, run.stdout + run.stderr


def rows_of(out):
    files = sorted(out.glob("*.parquet"))
    assert all(pq.read_schema(file).equals(SCHEMA) for file in files)
    return [(file.name, row) for file in files for row in pq.read_table(file).to_pylist()]


def test_samples_keep_the_contract(job):
    rows = rows_of(job[0])
    manifest = read_manifest(str(job[0]))
    verify_files(job[0], manifest)
    assert len(rows) == 24
    splits = {}
    for file, row in rows:
        assert file.startswith(row["split"])
        assert splits.setdefault(row["patient_id"], row["split"]) == row["split"]
        assert decode_image(row).size == (row["width"], row["height"]) == (SIZE, SIZE)
    assert len(splits) == 8
    for split, counts in manifest["counts"].items():
        ids = [row["sample_id"] for _, row in rows if row["split"] == split]
        assert ids == sorted(set(ids))
        assert len(ids) == counts["samples"] == counts["objects"]
        assert counts["patients"] == list(splits.values()).count(split)


def test_masks_are_those_of_the_source(job, source):
    items = json.loads((source / "annotations.json").read_text())[5:]
    by_hash = {sha256_of_file(source / item["image"]): item for item in items}
    for _, row in rows_of(job[0]):
        polygons = [np.reshape(each["segmentation"][0], (-1, 2)) for each in by_hash[row["source_sha256"]]["mask"]]
        np.testing.assert_array_equal(object_masks(row)[0], polygons_to_mask(polygons, SIZE, SIZE))
        assert [each["phrase"] for each in row["objects"]] == ["blood vessels"]


def test_quarantine_says_what_was_left_out(job):
    lines = [json.loads(line) for line in (job[0] / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["index"], line["code"]) for line in lines] == [
        (0, "short_polygon"),
        (1, "path_twice"),
        (2, "path_twice"),
        (3, "name_mismatch"),
        (4, "image_unreadable"),
    ]
    assert "5 of 29 samples quarantined: path_twice 2" in job[1]
    assert read_manifest(str(job[0]))["num_quarantined"] == 5


def test_no_name_of_the_source_gets_out(job):
    out, printed = job
    for file in out.iterdir():
        assert not any(name.encode() in file.read_bytes() for name in NAMES), file.name
    for _, row in rows_of(out):
        assert not any(name in repr({**row, "image": b""}) or name.encode() in row["image"] for name in NAMES)
    assert not any(name in printed for name in NAMES)
    assert "progress prepare 25/25" in printed


def test_the_same_key_gives_the_same_bytes(job, source, tmp_path, monkeypatch):
    config = PrepareConfig(source=str(source), out=str(tmp_path), max_quarantined_fraction=0.2, test_fraction=0.3)
    monkeypatch.setenv(KEY_VARIABLE, "key")
    (tmp_path / "train-00000.parquet").touch()  # what a run that was cut off left behind
    assert prepare(config) == digest(read_manifest(str(job[0])))
    for file in job[0].iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_too_much_quarantine_writes_nothing(source, ray_cluster, tmp_path):
    with pytest.raises(UserError, match=r"5 of 29 samples cannot be used \(path_twice 2") as caught:
        prepare(PrepareConfig(source=str(source), out=str(tmp_path / "out")))
    assert not any(name in str(caught.value) for name in NAMES)
    assert not list((tmp_path / "out").iterdir())


def test_a_foreign_folder_is_left_alone(source, tmp_path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UserError, match="Nothing was changed"):
        prepare(PrepareConfig(source=str(source), out=str(tmp_path)))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.docx"]
