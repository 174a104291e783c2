"""The job on a real Ray cluster, with predictions as jobs.predict writes them."""

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.images.brush_rle import brush_rle_to_mask
from sa2va_ray.images.decode import to_png
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.labelling import run
from sa2va_ray.labelling.config import LabelQueueConfig
from sa2va_ray.labelling.run import label_queue
from sa2va_ray.predict.job.results import RESULT_SCHEMA, write_results

H, W = 40, 56
NAMES = [f"{patient}/{place} +.png" for patient in ("MuellerHans", "DoeJane") for place in range(3)]
PATTERN = "(?P<patient>.+)/[^/]+"
SHA = "ab" * 32


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Images of two patients, one of a kind that browsers do not show, and their predictions beside them."""
    rows = []
    for seed, name in enumerate([*NAMES, "DoeJane/4.tif"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_png(noise(seed, H, W, 3)))
        rows.append(row(hashlib.sha256(path.read_bytes()).hexdigest(), seed))
    write_results(str(tmp_path / "predictions"), rows)
    return tmp_path


def row(sha256, seed, **fields):
    mask = noise(seed, H, W) > 200
    known = {
        "id": sha256[:16], "source_sha256": sha256, "model": "octa", "model_sha256": SHA, "threshold": 0.5,
        "prompt": "<image>\nPlease segment blood vessels in this image.", "tta": "none", "num_masks": 1, "score": 0.5,
        "area_fraction": float(mask.mean()), "entropy": 0.1 * (1 + seed), "height": H, "width": W,
        "masks": [mask_to_rle(mask)],
    }  # fmt: skip
    return dict.fromkeys(RESULT_SCHEMA.names) | known | fields


def queue(folder, **more):
    paths = {"predictions": folder / "predictions", "source": folder / "images", "out": folder / "queue"}
    return label_queue(
        LabelQueueConfig.parse({"patient_pattern": PATTERN, **{key: str(path) for key, path in paths.items()}, **more})
    )


def read(folder, name):
    return json.loads((folder / "queue" / name).read_text())


def test_a_file_and_a_page_without_names(ray_cluster, folder, capfd):
    counts = queue(folder, image_url="/data/local-files/?d=x/{name}", max_tasks=5)
    assert counts == {"queued": 5, "patients": 2, "left_out": 2}  # the TIFF, and the last in the queue
    tasks, told = read(folder, "tasks.json"), read(folder, "queue.json")
    images = [task["data"]["image"] for task in tasks]
    assert images == [f"/data/local-files/?d=x/{quote(NAMES[place])}" for place in (5, 2, 4, 1, 3)]
    assert [each["patient"] for each in told["images"]] == [1, 2, 1, 2, 1]
    assert [each["id"] for each in told["images"]] == [task["data"]["sa2va"]["id"] for task in tasks]
    for task, seed in zip(tasks, (5, 2, 4, 1, 3), strict=True):
        (region,) = task["predictions"][0]["result"]
        np.testing.assert_array_equal(brush_rle_to_mask(region["value"]["rle"], H, W), noise(seed, H, W) > 200)
    page = re.sub(r"base64,[^\"]+", "", (folder / "queue/queue.html").read_text())
    assert page.count("<img") == 5
    assert page.count("<li>1 image ") == 2
    assert "The model drew nothing" not in page
    assert f"5: patient 1, uncertainty 0.40, image {told['images'][4]['id']}" in page
    printed = capfd.readouterr()
    for text in (page, json.dumps(told), printed.out + printed.err):
        assert not any(name in text for name in ("Mueller", "Hans", "Doe", "Jane"))


def test_a_project_gets_what_it_has_not(ray_cluster, folder, studio):
    """One image was uploaded by hand and is labelled, another was and is not, a third was skipped."""
    by_hand = [f"/data/upload/7/1a2b3c4d-{place}_.png" for place in range(3)]
    for place in range(3):  # the names of files are to be clear
        (folder / "images" / NAMES[3 + place]).rename(folder / f"images/DoeJane/1{place}.png")
    studio.tasks = [
        {"id": 1, "data": {"photo": by_hand[0]}, "annotations": [{"id": 1, "result": []}], "predictions": []},
        {"id": 2, "data": {"photo": by_hand[1]}, "annotations": [], "predictions": []},
        {"id": 3, "data": {"photo": by_hand[2]}, "annotations": [{"id": 2, "was_cancelled": True}], "predictions": []},
    ]
    server = {"project": "label_studio://7", "label_studio": {"url": studio.url}}
    assert queue(folder, **server) == {"queued": 4, "patients": 2, "left_out": 3}
    assert [task["id"] for task in studio.tasks] == [1, 2, 3, 4, 5, 6]
    assert [len(task["predictions"]) for task in studio.tasks] == [0, 1, 0, 1, 1, 1]
    assert [name.partition("-")[2][:-4] for name in studio.uploads] == [
        task["data"]["sa2va"]["id"] for task in studio.tasks[3:]
    ]
    assert [task["data"]["photo"] for task in studio.tasks[3:]] == [f"/data/upload/7/{name}" for name in studio.uploads]
    queued = read(folder, "queue.json")["images"]
    assert {each["task"] for each in queued} == {2, 4, 5, 6}
    page = (folder / "queue/queue.html").read_text()
    assert "tasks of project 7 in Label Studio" in page
    assert f"1: task {queued[0]['task']}, patient 1, " in page
    before = json.dumps(studio.tasks)
    assert queue(folder, **server) == {"queued": 4, "patients": 2, "left_out": 3}
    assert json.dumps(studio.tasks) == before, "the same command puts nothing there twice"
    studio.tasks[4]["annotations"] = [{"id": 3, "result": []}]
    assert queue(folder, **server)["queued"] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [(Path.unlink, "cannot be read any more"), (lambda file: file.write_bytes(b"new"), "is another one by now")],
    ids=["gone", "replaced"],
)
def test_an_image_that_is_gone_or_another_when_it_is_to_be_uploaded_is_told_without_its_path(
    ray_cluster, folder, studio, change, said
):
    server = {"project": "label_studio://7", "label_studio": {"url": studio.url}}
    ranked = run._queue

    def gone(*arguments):
        found = ranked(*arguments)
        change(folder / "images" / found[0][0].candidate.item.source.name)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_queue", gone)
        with pytest.raises(UserError, match=rf"The image [0-9a-f]{{16}}, to be uploaded, {said}") as told:
            queue(folder, **server)
    assert not any(name in str(told.value) for name in ("Mueller", "Doe", str(folder)))
    assert queue(folder, **server)["queued"] == 5


def test_a_model_that_draws_nothing_is_told_of(ray_cluster, folder):
    empty = {"masks": [mask_to_rle(np.zeros((H, W), bool))], "area_fraction": 0.0}
    hashes = [hashlib.sha256((folder / "images" / name).read_bytes()).hexdigest() for name in NAMES]
    write_results(
        str(folder / "predictions"), [row(sha, seed, **(empty if seed else {})) for seed, sha in enumerate(hashes)]
    )
    queue(folder, image_url="{name}")
    page = (folder / "queue/queue.html").read_text()
    assert "The model drew nothing on 5 of these 6 images." in page
    assert page.count("the model drew nothing, image") == 2 * 5  # below each picture, and in its text


def test_what_cannot_be_queued(ray_cluster, folder):
    with pytest.raises(UserError, match="no address for images on a disk"):
        queue(folder)
    with pytest.raises(UserError, match="does not tell whose the images are") as told:
        queue(folder, image_url="{name}", patient_pattern=r"(?P<patient>\d+)")
    assert "Mueller" not in str(told.value)
    write_results(str(folder / "predictions"), [row("f" * 64, 0), row("e" * 64, 0, error="broken: x")])
    with pytest.raises(UserError, match=r"None of the 7 images .* 6 without a prediction"):
        queue(folder, image_url="{name}")
    write_results(str(folder / "predictions"), [row("f" * 64, 0), row("e" * 64, 0, prompt="another")])
    with pytest.raises(UserError, match="by 2 different models or prompts"):
        queue(folder)
    (folder / "predictions/results.parquet").unlink()
    with pytest.raises(UserError, match="a run that has ended"):
        queue(folder)
