"""The whole job on a real Ray cluster."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.manifest import read_manifest
from sa2va_ray.models.baselines.config import FilterConfig
from sa2va_ray.models.baselines.vessel_filter import FittedFilter
from sa2va_ray.models.model_manifest import write_model_manifest
from sa2va_ray.predict.baseline_predictors import CONFIG_FILE
from sa2va_ray.predict.facts import read_model_facts
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.predict.job.run import predict

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[3]
NAMES = ("MuellerHans", "DoeJane", "hospital")  # in the names of folders and images
POOL = ["use_gpu=false", "cpus_per_actor=0.5", "batch_size=2"]
WAIT_LIMIT_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images, one of them twice, two that are broken, and a video of two frames."""
    folder = tmp_path_factory.mktemp("hospital") / "images"
    (folder / "MuellerHans").mkdir(parents=True)
    Image.fromarray(noise(1, 48, 64)).save(folder / "MuellerHans/1.png")
    Image.fromarray(noise(2, 40, 40, 3)).save(folder / "DoeJane.jpg")
    shutil.copy(folder / "MuellerHans/1.png", folder / "DoeJane_2.png")
    (folder / "broken_DoeJane.png").write_bytes((folder / "MuellerHans/1.png").read_bytes()[:200])
    (folder / "empty_DoeJane.jpg").write_bytes(b"")
    writer = cv2.VideoWriter(str(folder / "DoeJane.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for seed in (3, 4):
        writer.write(noise(seed, 48, 64, 3))
    writer.release()
    return folder


@pytest.fixture(scope="module")
def model_uri(tmp_path_factory):
    """A vessel filter: it always finds something, and takes a second for a megapixel."""
    return write_filter(tmp_path_factory.mktemp("model"))


def write_filter(folder: Path) -> str:
    fitted = FittedFilter(
        filter=FilterConfig(widths_px=(2.0, 4.0, 6.0, 8.0)), polarity="bright", cuts=(0.2, 0.4), levels=(0.1, 0.5, 0.9)
    )
    (folder / CONFIG_FILE).write_text(fitted.model_dump_json())
    write_model_manifest(folder, {"kind": "vessel_filter", "name": "filter", "threshold": 0.6})
    return str(folder)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def config(model: str, images, out, *more: str) -> PredictConfig:
    return PredictConfig.load([f"model={model}", f"source={images}", f"out={out}", *POOL, *more])


@pytest.fixture(scope="module")
def start_job(stack):
    """Starts a job as a user does; none outlives the tests."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.predict", *arguments, *POOL],
            cwd=ROOT,
            env={**os.environ, **stack.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def job(start_job, model_uri, folder):
    """(out, what the job printed)"""
    out = "s3://tests/predict/job"
    process = start_job(
        f"model={model_uri}", f"source={folder}", f"out={out}", *("overlays=true", "panels=true"),
        *("probabilities=true", "threshold=0.4"),
    )  # fmt: skip
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-5000:]
    return out, output


def rows_of(out: str) -> list[dict]:
    return json.loads(storage.read_bytes(storage.join(str(out), "results.json")))


def picture(out: str, file: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(storage.read_bytes(storage.join(str(out), file)))))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_image_has_a_row_called_by_its_hash(job, folder, model_uri):
    rows = rows_of(job[0])
    video = sha256(folder / "DoeJane.avi")
    images = [sha256(folder / name) for name in ("DoeJane.jpg", "DoeJane_2.png", "broken_DoeJane.png")]
    empty = sha256(folder / "empty_DoeJane.jpg")
    assert [row["source_sha256"] for row in rows] == [video, video, *images, empty]
    assert [row["id"] for row in rows] == [
        *(f"{video[:16]}-00000", f"{video[:16]}-00001"), *(each[:16] for each in (*images, empty)),
    ]  # fmt: skip
    assert [row["frame"] for row in rows] == [0, 1, None, None, None, None]
    model = read_model_facts(model_uri)
    for row in rows:
        assert (row["model"], row["model_sha256"], row["threshold"]) == (model.name, model.sha256, 0.4)
        assert (row["prompt"], row["name"]) == ("<image>\nPlease segment blood vessels in this image.", None)


def test_bad_images_are_rows_with_their_error(job):
    assert [row["error"] and row["error"].partition(":")[0] for row in rows_of(job[0])] == [
        *(None, None, None, None, "image_unreadable", "image_unreadable")
    ]
    assert "2 errors" in job[1]
    assert "images with an error: 2 image_unreadable; what it means stands in results.json" in job[1]


def test_pictures(job):
    out, _ = job
    good = [row for row in rows_of(out) if row["error"] is None]
    table = pq.read_table(io.BytesIO(storage.read_bytes(f"{out}/results.parquet"))).to_pylist()
    rles = {row["id"]: row["masks"] for row in table}
    for row in good:
        size = (row["height"], row["width"])
        mask, probability = picture(out, row["mask"]), picture(out, f"probabilities/{row['id']}.png")
        assert (mask.dtype, mask.shape) == (np.uint8, size)
        assert set(np.unique(mask)) <= {0, 255}
        assert row["area_fraction"] == (mask == 255).mean()
        assert row["num_masks"] == len(rles[row["id"]]) == 1
        assert 0 < row["area_fraction"] < 1
        np.testing.assert_array_equal(mask == 255, np.any([rle_to_mask(rle) for rle in rles[row["id"]]], axis=0))
        assert (probability.dtype, probability.shape) == (np.uint16, size)
        # Rounding to 16 bits moves a value that lies within half a step of the threshold.
        certain = np.abs(probability / 65_535 - 0.4) > 0.5 / 65_535
        np.testing.assert_array_equal((probability / 65_535 > 0.4)[certain], (mask == 255)[certain])
        assert picture(out, f"overlays/{row['id']}.png").shape == (*size, 3)
        assert picture(out, f"panels/{row['id']}.png").shape == (size[0], 3 * size[1] + 8, 3)
    assert len(storage.list_files(out)) == 4 * len(good) + 3  # nothing else is left


def test_an_overlay_is_the_image_where_there_is_no_mask(job, folder):
    (row,) = [row for row in rows_of(job[0]) if row["source_sha256"] == sha256(folder / "DoeJane_2.png")]
    mask, overlay = picture(job[0], row["mask"]) == 255, picture(job[0], f"overlays/{row['id']}.png")
    image = noise(1, 48, 64)
    np.testing.assert_array_equal(overlay[~mask], np.repeat(image[~mask][:, None], 3, axis=1))


def test_coco_reads_the_masks(job, tmp_path):
    (tmp_path / "coco.json").write_bytes(storage.read_bytes(f"{job[0]}/coco.json"))
    coco = COCO(tmp_path / "coco.json")
    rows = [row for row in rows_of(job[0]) if row["error"] is None]
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [row["id"] for row in rows]
    for image_id, row in zip(coco.getImgIds(), rows, strict=True):
        masks = [coco.annToMask(each) for each in coco.loadAnns(coco.getAnnIds(image_id))]
        union = np.any([np.zeros((row["height"], row["width"])), *masks], axis=0)
        np.testing.assert_array_equal(union, picture(job[0], row["mask"]) == 255)


def test_no_name_gets_out(job):
    """Neither to the log nor to the results, though the paths of the arguments are the user's own."""
    out, output = job
    for name in NAMES[:2]:
        assert name not in output
        for file in storage.list_files(out):
            assert name not in file
            assert name.encode() not in storage.read_bytes(f"{out}/{file}")


def test_a_second_start_does_what_is_missing(job, ray_cluster, model_uri, folder, tmp_path):
    out = tmp_path / "out"
    storage.download_folder(job[0], out)
    again = config(model_uri, folder, out, "threshold=0.4")
    before = {file: (out / file).stat().st_mtime_ns for file in storage.list_files(str(out)) if "masks/" in file}
    first = sorted(before)[0]
    (out / first).unlink()
    counts = predict(again)
    assert counts == {"images": 6, "predicted": 1, "errors": 2, "without_mask": 0}  # the two bad ones were tried again
    after = {file: (out / file).stat().st_mtime_ns for file in before}
    assert {file for file in before if after[file] != before[file]} == {first}
    same = ("id", "source_sha256", "mask", "text", "num_masks", "error")
    assert [[row[name] for name in same] for row in rows_of(out)] == [
        [row[name] for name in same] for row in rows_of(job[0])
    ]


def test_rows_of_a_version_that_told_less_are_made_anew(job, ray_cluster, model_uri, folder, tmp_path):
    out = tmp_path / "out"
    storage.download_folder(job[0], out)
    pq.write_table(
        pq.read_table(out / "results.parquet").drop_columns(["entropy", "disagreement"]), out / "results.parquet"
    )
    assert predict(config(model_uri, folder, out, "threshold=0.4"))["predicted"] == 4
    good = [row for row in rows_of(out) if row["error"] is None]
    assert all(0 < row["entropy"] < 1 for row in good)
    assert {row["disagreement"] for row in good} == {None}


def test_other_settings_make_all_masks_anew(job, ray_cluster, model_uri, folder, tmp_path):
    out = tmp_path / "out"
    storage.download_folder(job[0], out)
    assert predict(config(model_uri, folder, out, "threshold=0.0", "cleanup.max_hole_px=3"))["predicted"] == 4
    good = [row for row in rows_of(out) if row["error"] is None]
    assert {(row["threshold"], row["cleanup"]["max_hole_px"]) for row in good} == {(0.0, 3)}
    assert all((picture(out, row["mask"]) == 255).all() for row in good)


def test_a_killed_driver_and_a_second_start(stack, start_job, ray_cluster, model_uri, tmp_path):
    """What was written stays as it is, and there is nothing by halves."""
    images, out = many_images(tmp_path / "images"), tmp_path / "out"
    process = start_job(f"model={model_uri}", f"source={images}", f"out={out}")
    wait_for_part(out, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for_rest(stack)
    written = {file: file.stat().st_mtime_ns for file in (out / "masks").glob("*.png")}
    in_parts = {row["id"] for part in (out / "parts").glob("*.parquet") for row in pq.read_table(part).to_pylist()}
    assert in_parts <= {file.stem for file in written}
    assert not (out / "results.json").exists()
    assert all(Image.open(file).size == (700, 700) for file in written)
    (out / "masks/left.png.partial").write_bytes(b"half")

    counts = predict(config(model_uri, images, out))
    assert 0 < len(in_parts) < 12
    assert counts["predicted"] == 12 - len(in_parts)
    assert {file.stem for file in written if file.stat().st_mtime_ns == written[file]} >= in_parts
    assert len(rows_of(out)) == len(list((out / "masks").iterdir())) == 12


def test_an_actor_that_dies_is_replaced(stack, start_job, model_uri, tmp_path):
    images, out = many_images(tmp_path / "images"), tmp_path / "out"
    process = start_job(f"model={model_uri}", f"source={images}", f"out={out}")
    wait_for_part(out, process)
    (actor,) = predict_actors(stack)
    actor.kill()
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-5000:]
    rows = rows_of(out)
    assert len({row["id"] for row in rows}) == len(rows) == 12
    assert all(row["error"] is None for row in rows)


def many_images(folder: Path) -> Path:
    folder.mkdir()
    for seed in range(12):  # a task and a half
        Image.fromarray(noise(seed, 700, 700)).save(folder / f"{seed}.png")
    return folder


def wait_for_part(out: Path, process: subprocess.Popen) -> None:
    wait_until(lambda: process.poll() is not None or any((out / "parts").glob("*.parquet")))
    assert process.poll() is None, process.communicate()[0][-5000:]


def wait_for_rest(stack) -> None:
    """Ray ends the workers of a driver that is gone."""
    wait_until(lambda: not predict_actors(stack))


def wait_until(condition) -> None:
    end_s = time.monotonic() + WAIT_LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def predict_actors(stack) -> list[psutil.Process]:
    """The actors of this session's cluster; others may be on the machine."""
    processes = list(psutil.process_iter(["cmdline", "ppid"]))
    ours = {p.pid for p in processes if stack.runtime_dir in " ".join(p.info["cmdline"] or [])}
    return [
        p
        for p in processes
        if p.info["ppid"] in ours and "MapBatches(PredictImages)" in " ".join(p.info["cmdline"] or [])
    ]


def test_masks_by_the_names_of_the_images(ray_cluster, model_uri, folder, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(folder, images, ignore=shutil.ignore_patterns("*broken*", "*empty*", "*.avi"))
    assert predict(config(model_uri, images, tmp_path / "out", "keep_names=true"))["images"] == 3
    rows = rows_of(tmp_path / "out")
    assert {row["name"]: row["mask"] for row in rows} == {
        "DoeJane.jpg": "masks/DoeJane.png",
        "DoeJane_2.png": "masks/DoeJane_2.png",
        "MuellerHans/1.png": "masks/MuellerHans/1.png",
    }
    assert all((tmp_path / "out" / row["mask"]).is_file() for row in rows)
    shutil.copy(images / "DoeJane.jpg", images / "DoeJane.jpeg")
    with pytest.raises(UserError, match=r"1 of 4 images have the same name") as error:
        predict(config(model_uri, images, tmp_path / "out", "keep_names=true"))
    assert not any(name in str(error.value) for name in NAMES)


def test_a_prepared_data_set(ray_cluster, exported_uri, prepared_uri, bucket_uri):
    counts = predict(config(exported_uri, prepared_uri, bucket_uri, "split=val", "tta=flips"))
    assert (counts["images"], counts["errors"]) == (3, 0)
    (name,) = [name for name in read_manifest(prepared_uri)["files"] if name.startswith("val-")]
    samples = pq.read_table(io.BytesIO(storage.read_bytes(f"{prepared_uri}/{name}"))).to_pylist()
    assert [(row["id"], row["source_sha256"], row["mask"]) for row in rows_of(bucket_uri)] == [
        (sample["sample_id"], sample["source_sha256"], f"masks/{sample['sample_id']}.png") for sample in samples
    ]
    assert {row["tta"] for row in rows_of(bucket_uri)} == {"flips"}
    assert predict(config(exported_uri, prepared_uri, bucket_uri, "split=val", "tta=flips"))["predicted"] == 0


def test_a_model_that_does_not_match_its_manifest_is_refused(start_job, folder, tmp_path):
    (tmp_path / "model").mkdir()
    config_file = Path(write_filter(tmp_path / "model")) / CONFIG_FILE
    config_file.write_text(config_file.read_text().replace("0.4", "0.3"))
    arguments = (f"model={tmp_path}/model", f"source={folder}/DoeJane_2.png", f"out={tmp_path}/out")
    process = start_job(*arguments)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 2
    assert "error: " in output.splitlines()[-1]
    assert "does not have the content that the manifest names" in output.splitlines()[-1]
    assert not (tmp_path / "out/masks").exists()


def test_out_within_images_is_refused(model_uri, folder):
    with pytest.raises(UserError, match="lies within `source`"):
        predict(config(model_uri, folder, folder / "out"))
    shutil.rmtree(folder / "out")


def test_out_above_the_images_or_within_the_model_is_refused(model_uri, folder):
    with pytest.raises(UserError, match="`source` has images in `out`"):
        predict(config(model_uri, folder, folder.parent))
    with pytest.raises(UserError, match="`out` is the same folder as `model`"):
        predict(config(model_uri, folder, model_uri))
