"""The labeller's loop once, with the real Label Studio: predict, queue, correct, pull, prepare, train, evaluate."""

import hashlib
import io
import json
import os
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from sa2va_ray import storage
from sa2va_ray.data.sample import object_masks
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.evaluate.run import evaluate
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.run import export
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.labelling.config import LabelQueueConfig
from sa2va_ray.labelling.run import label_queue
from sa2va_ray.manifest import digest
from sa2va_ray.metrics import overlap_metrics
from sa2va_ray.models.checkpoint import list_checkpoints, read_stored_checkpoint
from sa2va_ray.models.model_manifest import read_model_manifest
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.predict.job.run import predict
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.identity.pseudonym_key import KEY_VARIABLE
from sa2va_ray.prepare.run import prepare
from tests.conftest import TINY_RUN
from tests.label_studio.conftest import RETRAIN_STATE
from tests.label_studio.real import make_environment

pytestmark = pytest.mark.soak

TOKEN = os.environ["LABEL_STUDIO_TOKEN"]
IMAGES = "s3://tests/loop/images"
PATIENTS, FRAMES, QUEUED = 6, 3, 14


def robot(server: str, *arguments: str) -> str:
    script = Path(__file__).with_name("loop_robot.py")
    command = [make_environment(), script, server, TOKEN, *arguments]
    return subprocess.run(command, check=True, timeout=300, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="module")
def truths(stack, tmp_path_factory) -> Path:
    """A folder with the true mask of each image, which are in the store."""
    source, folder = tmp_path_factory.mktemp("synthetic"), tmp_path_factory.mktemp("truths")
    write_synthetic_dataset(source, seed=7, num_patients=PATIENTS, frames_per_patient=FRAMES, size=128)
    for item in json.loads((source / "annotations.json").read_text()):
        mask = np.zeros((128, 128), np.uint8)
        for each in item["mask"]:
            cv2.fillPoly(mask, [np.array(each["segmentation"][0]).reshape(-1, 2)], 255)
        name = Path(item["image"])
        np.save(folder / f"{name.stem}.npy", mask)
        storage.write_bytes(f"{IMAGES}/{name.name}", (source / item["image"]).read_bytes())
    return folder


def test_the_loop(endpoint, server, truths, exported_uri, submit_job, ray_cluster, stack, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(KEY_VARIABLE, "tests")
    project, watch, times = robot(server, "make", f"{endpoint}/label_studio").strip(), time.monotonic(), {}

    def lap(what):
        nonlocal watch
        times[what], watch = time.monotonic() - watch, time.monotonic()

    out = "s3://tests/loop-out"
    pool = {"use_gpu": False, "cpus_per_actor": 0.5}
    predict(PredictConfig(model=exported_uri, source=IMAGES, out=f"{out}/predictions", tta="flips", **pool))
    lap("predict")
    connection = {"project": f"label_studio://{project}", "label_studio": {"url": server}}
    queue = LabelQueueConfig(
        predictions=f"{out}/predictions", source=IMAGES, out=str(tmp_path / "queue"), max_tasks=QUEUED, **connection
    )
    assert label_queue(queue) == {"queued": QUEUED, "patients": PATIENTS, "left_out": PATIENTS * FRAMES - QUEUED}
    first = json.loads((tmp_path / "queue/queue.json").read_text())["images"]
    assert [each["patient"] for each in first[:PATIENTS]] == [*range(1, PATIENTS + 1)]
    lap("queue")

    done = json.loads(robot(server, "correct", project, str(truths)))
    lap("correct")
    assert len(done) == QUEUED - 1  # the last one was skipped
    jobs = JobSubmissionClient(stack.dashboard_url)
    retrained = [job for job in jobs.list_jobs() if (job.submission_id or "").startswith("sa2va-retrain-")]
    assert retrained, storage.read_bytes(RETRAIN_STATE)
    assert label_queue(queue.model_copy(update={"out": str(tmp_path / "next")}))["queued"] == PATIENTS * FRAMES - QUEUED

    data = f"{out}/data"
    split = {"method": "balanced", "val_fraction": 0.2, "test_fraction": 0.3}
    any_mask = {"min_foreground_fraction": 0, "max_foreground_fraction": 1}  # one is as the tiny model drew it
    fields = {"source": connection["project"], "label_studio": connection["label_studio"], "split": split}
    prepare(PrepareConfig(out=data, negatives="allow", checks=any_mask, **fields))
    lap("pull and prepare")
    manifest = json.loads(storage.read_bytes(f"{data}/manifest.json"))
    (told,) = manifest["corrections"]["by_model"]
    assert (told["images"], told["not_compared"]) == (QUEUED - 1, 0)
    assert told["unchanged"] >= 1
    assert told["minutes"]["total"] == pytest.approx(sum(seconds for *_, seconds in done) / 60)
    predicted = {row["source_sha256"]: row for row in read_table(f"{out}/predictions/results.parquet")}
    samples = [row for name in manifest["num_rows"] for row in read_table(f"{data}/{name}")]
    by_annotation = {each: sample for sample in samples for each in sample["annotations_sha256"]}
    dices = {}
    for place, (number, name, _) in enumerate(done):
        sample = by_annotation[hashlib.sha256(f"label_studio/annotation/{number}".encode()).hexdigest()]
        (mask,) = object_masks(sample)
        masks = [rle_to_mask(rle) for rle in predicted[sample["source_sha256"]]["masks"]]
        prediction = np.any([np.zeros((128, 128), bool), *masks], axis=0)
        drawn = prediction if place == 0 else np.load(truths / f"{name}.npy") >= 128
        np.testing.assert_array_equal(mask, drawn)
        dices[sample["sample_id"]] = overlap_metrics(prediction, drawn)["dice"]
    report = json.loads(storage.read_bytes(f"{data}/report.json"))
    assert {each["sample_id"]: each["dice"] for each in report["corrections"]} == pytest.approx(dices)

    submit_job("train", *TINY_RUN, "name=again", f"data_uri={data}", f"runs_uri={out}/runs")
    lap("train")
    export(ExportConfig(checkpoint=f"{out}/runs/again", out=f"{out}/model", name="again"))
    evaluate(EvaluateConfig(model=f"{out}/model", data_uri=data, out=f"{out}/evaluation", **pool))
    lap("export and evaluate")
    check_the_way_back(out, manifest, samples, set(by_annotation))
    (tmp_path / "report.html").write_bytes(storage.read_bytes(f"{data}/report.html"))
    with capfd.disabled():
        print({what: round(seconds, 1) for what, seconds in times.items()}, told, tmp_path)
    assert jobs.get_job_status(retrained[0].submission_id) == JobStatus.SUCCEEDED


def check_the_way_back(out: str, manifest: dict, samples: list[dict], annotations: set[str]) -> None:
    """From the evaluation to the model, its run, the data, and to the annotation of each sample in them."""
    metrics = json.loads(storage.read_bytes(f"{out}/evaluation/metrics.json"))
    model = read_model_manifest(f"{out}/model")
    assert metrics["model"]["sha256"] == digest(model)
    saved = map(read_stored_checkpoint, list_checkpoints(f"{out}/runs/again"))
    (checkpoint,) = [each for each in saved if digest(each.manifest) == model["checkpoint_sha256"]]
    told = (metrics["data_sha256"], model["data_sha256"], checkpoint.state.data_sha256)
    assert set(told) == {digest(manifest)}
    rows = [json.loads(line) for line in storage.read_bytes(f"{out}/evaluation/images.jsonl").splitlines()]
    assert {row["sample_id"] for row in rows} == {row["sample_id"] for row in samples if row["split"] == "test"}
    of_samples = [sample["annotations_sha256"] for sample in samples]
    assert all(len(each) == 1 for each in of_samples)
    assert {each for (each,) in of_samples} == annotations


def read_table(uri: str) -> list[dict]:
    return pq.read_table(io.BytesIO(storage.read_bytes(uri))).to_pylist()
