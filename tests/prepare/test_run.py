"""The whole job, on a real Ray cluster."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SCHEMA, annotator_masks, decode_image, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.data.sample_kinds import SampleKind, read_kinds
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.images.masks import polygons_to_mask
from sa2va_ray.manifest import digest, read_manifest, sha256_of_file, verify_files
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.identity.pseudonym_key import KEY_VARIABLE
from sa2va_ray.prepare.identity.pseudonyms import Pseudonyms
from sa2va_ray.prepare.run import DataRefused, prepare
from sa2va_ray.telemetry import LOGGER, configure_logging

ROOT = Path(__file__).parents[2]
SIZE = 64
NAMES = ("synth0", "MuellerHans", "hospital")  # of patients, and of the source folder
NNUNET = "Dataset001_vessels"
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
SETTINGS = ["max_quarantined_fraction=0.3", "split.test_fraction=0.3"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """24 good samples, one of them made for another size, and 8 that belong in quarantine."""
    folder = tmp_path_factory.mktemp("hospital") / "data"
    write_synthetic_dataset(folder, size=SIZE)
    items = json.loads((folder / "annotations.json").read_text())
    first = folder / items[0]["image"]
    names = [f"images/MuellerHans_frame_{frame}.jpg" for frame in (1, 2, 2)] + ["images/MuellerHans.jpg"]
    for name in [*names, "images/MuellerHans_frame_3.jpg"]:
        (folder / name).write_bytes(first.read_bytes())
    (folder / "images/MuellerHans_frame_9.jpg").write_bytes(first.read_bytes()[:500])
    wrong = [{"image": name, "mask": [{"segmentation": SQUARE}]} for name in [*names, "images/MuellerHans_frame_9.jpg"]]
    wrong[0]["mask"][0]["segmentation"] = [[1, 2, 3, 4]]
    items[5] |= {"height": 2 * SIZE, "width": 2 * SIZE}
    for each in items[5]["mask"]:
        each["segmentation"] = [[2 * x + 0.5 for x in polygon] for polygon in each["segmentation"]]
    copy = {**items[0], "image": "images/MuellerHans_frame_3.jpg"}  # the same image under another patient's name
    answer = {"from": "gpt", "value": "<p>vessels of Hans Mueller</p> [SEG]"}
    named = {**items[1], "image": "images/MuellerHans_frame_5.jpg", "conversations": [answer]}
    (folder / named["image"]).write_bytes((folder / items[1]["image"]).read_bytes())
    (folder / "annotations.json").write_text(json.dumps([*wrong, *items, copy, named]))
    return folder


@pytest.fixture(scope="module")
def job(source, ray_cluster, tmp_path_factory):
    """The job as a user starts it, with the output folder and all that it printed."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    environment = {KEY_VARIABLE: "key", "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    beside = [f"private_table={out.parent / 'table.csv'}", f"nnunet_out={out.parent / NNUNET}"]
    command = [sys.executable, "-m", "jobs.prepare", f"source={source}", f"out={out}", *beside, *SETTINGS]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out, run.stdout + run.stderr


def config_of(source, out, **fields):
    values = {"max_quarantined_fraction": 0.3, "split": {"test_fraction": 0.3}, **fields}
    return PrepareConfig(source=str(source), out=str(out), **values)


def rows_of(out):
    files = sorted(out.glob("*.parquet"))
    assert all(pq.read_schema(file).equals(SCHEMA) for file in files)
    return [(file.name, row) for file in files for row in pq.read_table(file).to_pylist()]


def test_samples_keep_the_contract(job):
    rows = rows_of(job[0])
    manifest = read_manifest(str(job[0]))
    verify_files(job[0], manifest)
    assert len(rows) == 23
    splits = {}
    for file, row in rows:
        assert file.startswith(row["split"])
        assert splits.setdefault(row["patient_id"], row["split"]) == row["split"]
        assert decode_image(row).size == (row["width"], row["height"]) == (SIZE, SIZE)
    assert len(splits) == 8
    for split, counts in manifest["counts"].items():
        own = [row for _, row in rows if row["split"] == split]
        places = [(row["patient_id"], row["run_id"], row["frame"]) for row in own]
        assert places == sorted(set(places))
        assert len(own) == counts["samples"] == counts["objects"]
        assert counts["negatives"] == 0
        assert counts["patients"] == list(splits.values()).count(split)
        kinds = {SampleKind(r["height"], r["width"], tuple(o["phrase"] for o in r["objects"])) for r in own}
        assert set(read_kinds(manifest, split)) == kinds
    assert sum(manifest["num_rows"].values()) == 23


def test_masks_are_those_of_the_source(job, source):
    items = json.loads((source / "annotations.json").read_text())[5:-2]
    by_hash = {sha256_of_file(source / item["image"]): item for item in items}
    for _, row in rows_of(job[0]):
        item = by_hash[row["source_sha256"]]
        scale = SIZE / item.get("height", SIZE)
        polygons = [(np.reshape(each["segmentation"][0], (-1, 2)) + 0.5) * scale - 0.5 for each in item["mask"]]
        np.testing.assert_array_equal(object_masks(row)[0], polygons_to_mask(polygons, SIZE, SIZE))
        assert [each["phrase"] for each in row["objects"]] == ["blood vessels"]


def test_quarantine_says_what_was_left_out_and_where_it_is(job, source):
    lines = [json.loads(line) for line in (job[0] / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["index"], line["code"]) for line in lines] == [
        (0, "short_polygon"),
        (1, "path_twice"),
        (2, "path_twice"),
        (3, "name_mismatch"),
        (4, "image_unreadable"),
        (5, "image_of_two_patients"),
        (29, "image_of_two_patients"),
        (30, "text_names_patient"),
    ]
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    items = json.loads((source / "annotations.json").read_text())
    pseudonyms = Pseudonyms(b"key", PrepareConfig.model_fields["patient_pattern"].default)
    for line in lines:
        assert files[line["label_file"] - 1] == "annotations.json"
        assert line["item"] == f".[{line['index']}]"
        name = items[line["index"]]["image"]
        assert files[line["image_file"] - 1] == name
        assert line["sample_id"] == pseudonyms.sample_id(name)
    assert "8 of 31 samples quarantined" in job[1]
    assert f"private_table={job[0].parent / 'table.csv'}" in job[1]
    assert "patient_pattern='(?:.*/)?(?P<patient>[^/]+)'" in lines[3]["reason"]
    assert "pairs=" in lines[3]["reason"]


def test_the_private_table_names_the_files_of_all_items(job, source):
    items = json.loads((source / "annotations.json").read_text())
    with (job[0].parent / "table.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["item"], row["source_file"]) for row in rows] == [(str(i), items[i]["image"]) for i in range(31)]
    lines = [json.loads(line) for line in (job[0] / "quarantine.jsonl").read_text().splitlines()]
    assert [int(row["item"]) for row in rows if row["status"] == "quarantined"] == [line["index"] for line in lines]
    assert {row["sample_id"] for row in rows if row["status"].startswith("kept")} == {
        row["sample_id"] for _, row in rows_of(job[0])
    }


def test_the_layout_of_nnunet_has_the_same_samples_and_no_name(job):
    folder = job[0].parent / NNUNET
    rows = [row for _, row in rows_of(job[0])]
    for split, part in (("train", "Tr"), ("val", "Tr"), ("test", "Ts")):
        for row in (row for row in rows if row["split"] == split):
            label = cv2.imread(str(folder / f"labels{part}/{row['patient_id']}_{row['sample_id']}.png"), -1)
            np.testing.assert_array_equal(label == 1, object_masks(row)[0])
    assert len(list(folder.glob("labels*/*"))) == len(list(folder.glob("images*/*"))) == len(rows)
    texts = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    texts += [path.read_text() for path in folder.glob("*.json")]
    assert not [text for text in texts for name in NAMES if name in text]


def test_a_layout_of_nnunet_in_the_data_set_is_refused(job, source):
    for nnunet_out in (job[0] / NNUNET, source / NNUNET):
        with pytest.raises(UserError, match="`nnunet_out` lies within"):
            prepare(config_of(source, job[0], nnunet_out=str(nnunet_out)))


def test_the_report_tells_the_same(job):
    report = json.loads((job[0] / "report.json").read_text())
    assert report["verdicts"] == {"ok": 22, "repaired": 1, "quarantined": 8}
    html = (job[0] / "report.html").read_text()
    assert "size_rescaled" in html
    assert "image_of_two_patients" in html
    assert cv2.imread(str(job[0] / "contact_sheet.png")).shape[0] > 300


def test_the_same_key_gives_the_same_bytes(job, source, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "key")
    (tmp_path / "train-00000.parquet").touch()  # what a run that was cut off left behind
    assert prepare(config_of(source, tmp_path)) == digest(read_manifest(str(job[0])))
    for file in job[0].iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_too_much_quarantine_leaves_the_report_alone(source, ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    command = [sys.executable, "-m", "jobs.prepare", f"source={source}", f"out={tmp_path / 'out'}"]
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "error: 8 of 31 samples cannot be used (" in run.stderr
    assert not any(name in run.stderr for name in ("synth0", "MuellerHans"))
    written = storage.list_files(str(tmp_path / "out"))
    assert run.stderr.count("No pseudonym key was given") == 1
    assert "Made without a pseudonym key" in (tmp_path / "out/validation/report.html").read_text()
    assert {"validation/report.html", "validation/report.json", "validation/quarantine.jsonl"} <= written.keys()
    assert not any(name.endswith((".parquet", "manifest.json")) for name in written)


def test_images_without_the_object_are_samples_where_they_are_allowed(ray_cluster, tmp_path):
    random = np.random.default_rng(0)
    for number in range(6):
        name = f"p{number}_frame_1.png"
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "data/images" / name), random.integers(0, 256, (SIZE, SIZE), np.uint8))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[10 : 10 + 5 * (number % 2), 4 + number :] = 255
        cv2.imwrite(str(tmp_path / "data/masks" / name), mask)
    split = {"method": "balanced", "test_fraction": 0, "val_fraction": 0}
    prepare(config_of(tmp_path / "data", tmp_path / "out", negatives="allow", split=split))
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest["counts"]["train"] == {"samples": 6, "patients": 6, "objects": 3, "negatives": 3}
    assert sorted(object_masks(row).any() for _, row in rows_of(tmp_path / "out")) == [False] * 3 + [True] * 3
    assert sorted(kind.is_negative for kind in read_kinds(manifest, "train")) == [False, True]
    report = (tmp_path / "out/report.html").read_text()
    assert "Without the object" in report


def test_each_of_several_annotators_is_kept_beside_their_consensus(ray_cluster, tmp_path, monkeypatch, caplog):
    """As of STARE, whose second observer has one image fewer."""
    configure_logging()
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setenv(KEY_VARIABLE, "key")
    random, drawn = np.random.default_rng(0), {}
    for folder in ("images", "labels-ah", "labels-vk"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(1, 4):
        image = random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"data/images/im000{number}.png"), image)
        for observer, width in (("ah", 8), ("vk", 10)):
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[10:30, 10 + number : 10 + number + width] = 255
            drawn[number, observer] = mask > 0
            if (number, observer) != (3, "vk"):
                cv2.imwrite(str(tmp_path / f"data/labels-{observer}/im000{number}.{observer}.png"), mask)
    split = {"method": "balanced", "test_fraction": 0, "val_fraction": 0}
    prepare(config_of(tmp_path / "data", tmp_path / "out", annotators="majority", split=split))
    pseudonyms = Pseudonyms(b"key", PrepareConfig.model_fields["patient_pattern"].default)
    observers = {pseudonyms.annotator_id(f"stare/{place}"): name for place, name in ((1, "ah"), (2, "vk"))}
    samples = SampleIndex(str(tmp_path / "out"), "train")
    rows = sorted((samples[place] for place in range(3)), key=lambda row: int(object_masks(row)[0].argmax()))
    for number, row in enumerate(rows, 1):
        np.testing.assert_array_equal(object_masks(row)[0], drawn[number, "ah"])  # what both drew
        names = [observers[each["annotator"]] for each in row["annotators"] or ()]
        assert sorted(names) == (["ah", "vk"] if number < 3 else [])
        for name, mask in zip(names, annotator_masks(row, "blood vessels"), strict=True):
            np.testing.assert_array_equal(mask, drawn[number, name])
        assert not annotator_masks(row, "something else").any()
    found = read_manifest(str(tmp_path / "out"))["annotators"]
    assert found["num_samples"] == {"1": 1, "2": 2}
    assert found["agreement"] == pytest.approx(16 / 18)
    assert [(observers[each["annotator"]], each["samples"]) for each in found["annotators"]] == [("vk", 2), ("ah", 2)]
    report = (tmp_path / "out/report.html").read_text()
    assert "the consensus by <code>annotators=majority</code>; of two it is what both drew." in report
    assert "The truths are of two kinds: 2 of 2 annotators (train 2); 1 of one annotator (train 1)." in report
    assert "WARNING: The truths are of two kinds" in caplog.text
    assert all(pseudonym in report for pseudonym in observers)


def test_a_dry_run_leaves_a_data_set_as_it_is(job, source, tmp_path):
    shutil.copytree(job[0], tmp_path / "out")
    assert prepare(config_of(source, tmp_path / "out", validate_only=True)) is None
    verify_files(tmp_path / "out", read_manifest(str(tmp_path / "out")))
    assert (tmp_path / "out/validation/report.html").exists()


def test_near_duplicates_in_two_splits_stop_the_job(source, ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "key")
    shutil.copytree(source, tmp_path / "data")
    items = json.loads((source / "annotations.json").read_text())[5:-2]
    twin = items[0]["image"].replace("synth01", "twin")
    image = cv2.imread(str(source / items[0]["image"]))
    cv2.imwrite(str(tmp_path / "data" / twin), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    (tmp_path / "data/annotations.json").write_text(json.dumps([*items, {**items[0], "image": twin}]))
    listed = {f"synth{number:02d}": "train" for number in range(1, 9)} | {"twin": "test"}
    lines = [f"{patient},{split}" for patient, split in listed.items()]
    (tmp_path / "splits.csv").write_text("\n".join(["patient,split", *lines]))
    settings = config_of(tmp_path / "data", tmp_path / "out", split={"list_uri": str(tmp_path / "splits.csv")})
    with pytest.raises(
        DataRefused, match=r"Samples \w{16} \(train, item 0\) and \w{16} \(test, item 24\) are near"
    ) as end:
        prepare(settings)
    assert str(end.value).endswith(f"sa2va-ray open {tmp_path}/out/validation/report.html")


def test_a_foreign_folder_is_left_alone(source, tmp_path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UserError, match="Nothing was changed"):
        prepare(config_of(source, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.docx"]


def test_no_name_of_the_source_gets_out(source, job, stack, bucket_uri, submit_job, tmp_path):
    """Every artefact, local and in the store, every log of Ray and all that is printed."""
    out, printed = job
    assert "progress validate 27/27" in printed
    printed += submit_job("prepare", f"source={source}", f"out={bucket_uri}", *SETTINGS)
    for name, size in storage.list_files(bucket_uri).items():
        data = storage.read_bytes(storage.join(bucket_uri, name))
        assert len(data) == size
        (tmp_path / name).write_bytes(data)
    (tmp_path / "printed").write_text(printed.replace(str(source), "SOURCE"))
    logs = Path(stack.runtime_dir, "ray/session_latest/logs")
    files = [*out.iterdir(), *tmp_path.iterdir(), *(path for path in logs.rglob("*") if path.is_file())]
    pattern = re.compile(b"synth0|MuellerHans")
    assert [path.name for path in files if pattern.search(path.read_bytes())] == []
    assert len(files) > 30
    for _, row in rows_of(out):
        assert not any(name in repr({**row, "image": b""}) or name.encode() in row["image"] for name in NAMES)


def test_a_source_whose_tasks_were_all_skipped_is_refused_as_that(ray_cluster, tmp_path):
    task = {"id": 1, "data": {"image": "p1_frame_1.png"}, "annotations": [{"result": [], "was_cancelled": True}]}
    (tmp_path / "data").mkdir()
    (tmp_path / "data/export.json").write_text(json.dumps([task]))
    with pytest.raises(DataRefused, match="`source` has no item: people have skipped all of its tasks"):
        prepare(config_of(tmp_path / "data", tmp_path / "out"))
