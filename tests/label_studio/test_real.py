"""Both ways with the real Label Studio 1.23: a robot's annotations come in, predictions go out."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from sa2va_ray import storage
from sa2va_ray.data.sample import decode_image, object_masks
from sa2va_ray.images.decode import to_png
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.identity.pseudonym_key import KEY_VARIABLE
from sa2va_ray.prepare.run import prepare
from tests.label_studio.real import make_environment, personal_token

pytestmark = pytest.mark.soak

TOKEN = os.environ["LABEL_STUDIO_TOKEN"]
H, W = 96, 128
NAMES = [f"p{patient}_frame_{frame}" for patient in range(5) for frame in (1, 2)]


@pytest.fixture(scope="module")
def robot(stack, server, tmp_path_factory):
    """(folder of what the robot was given and what it wrote, its project)"""
    folder = tmp_path_factory.mktemp("robot")
    for seed, name in enumerate(NAMES):
        random = np.random.default_rng(seed)
        (folder / f"{name}.png").write_bytes(to_png(random.integers(0, 256, (H, W, 3), np.uint8)))
        drawn = np.zeros((H, W), np.uint8)  # a smooth ring, and specks
        cv2.circle(drawn, (40 + 4 * seed, 40), 20, 255, 5, cv2.LINE_AA)
        drawn[random.random((H, W)) < 0.02] = 255
        np.save(folder / f"{name}.npy", drawn)
    storage.write_bytes(f"s3://tests/robot/{NAMES[1]}.png", (folder / f"{NAMES[1]}.png").read_bytes())
    script = Path(__file__).with_name("robot.py")
    command = [make_environment(), script, server, TOKEN, folder]
    done = subprocess.run(command, check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    return folder, int(done.stdout)


def prepared(out, source, **fields):
    """Bytes of each image -> its mask."""
    split = {"method": "balanced", "val_fraction": 0.2, "test_fraction": 0.2}
    prepare(PrepareConfig(source=str(source), out=str(out), split=split, **fields))
    rows = [row for file in out.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert {each["phrase"] for row in rows for each in row["objects"]} == {"blood vessels"}
    return {np.asarray(decode_image(row)).tobytes(): object_masks(row)[0] for row in rows}


def test_masks_come_back_bit_for_bit(robot, server, ray_cluster, tmp_path, monkeypatch):
    folder, project = robot
    monkeypatch.setenv(KEY_VARIABLE, "tests")
    connection = {"url": server}
    ways = {"pull": prepared(tmp_path / "pull", f"label_studio://{project}", label_studio=connection)}
    monkeypatch.setenv("PERSONAL", personal_token(server, TOKEN))
    connection["token_env"] = "PERSONAL"
    ways["personal"] = prepared(tmp_path / "personal", f"label_studio://{project}", label_studio=connection)
    for export in ("export.json", "export_min.json"):
        source = tmp_path / f"source_{export}"
        source.mkdir()
        for name in (export, *(f"{each}.png" for each in NAMES)):
            shutil.copy(folder / name, source)
        ways[export] = prepared(tmp_path / f"out_{export}", source)
    for way, masks in ways.items():
        assert len(masks) == len(NAMES), way
        for name in NAMES[:-1]:
            image = cv2.cvtColor(cv2.imread(str(folder / f"{name}.png")), cv2.COLOR_BGR2RGB)
            by_sdk = np.load(folder / f"sdk/{name}.npy")
            np.testing.assert_array_equal(by_sdk, np.load(folder / f"{name}.npy"))
            np.testing.assert_array_equal(masks[image.tobytes()], by_sdk >= 128, err_msg=way)
        for image, mask in ways["pull"].items():
            np.testing.assert_array_equal(masks[image], mask, err_msg=way)


def test_label_studio_gets_predictions_for_what_was_uploaded_to_it(endpoint, robot, server):
    folder, project = robot
    studio = httpx.Client(base_url=server, headers={"Authorization": f"Token {TOKEN}"}, timeout=120)
    backend = {"url": f"{endpoint}/label_studio", "project": project, "title": "sa2va"}
    interface = studio.get(f"/api/projects/{project}").json()["label_config"]
    studio.post("/api/ml/", json=backend).raise_for_status()
    action = {"selectedItems": {"all": True, "excluded": []}}
    query = {"id": "retrieve_tasks_predictions", "project": project}
    studio.post("/api/dm/actions/", params=query, json=action).raise_for_status()
    as_stored = {"project": project, "fields": "all", "resolve_uri": "false", "page_size": 100}
    tasks = studio.get("/api/tasks", params=as_stored).json()["tasks"]
    assert len(tasks) == len(NAMES)
    for task in tasks:
        (prediction,) = task["predictions"]
        name = task["data"]["image"].rpartition("/")[2].rpartition("-")[2]
        data = f"data:image/png;base64,{base64.b64encode((folder / name).read_bytes()).decode()}"
        body = {"tasks": [{"id": task["id"], "data": {"image": data}}], "label_config": interface}
        (expected,) = httpx.post(f"{endpoint}/label_studio/predict", json=body, timeout=120).json()["results"]
        assert prediction["model_version"] == expected["model_version"]
        assert _masks(prediction) == _masks(expected)
    assert any(_masks(task["predictions"][0]) for task in tasks), "the model sees nothing in any image"


def _masks(prediction):
    return [json.dumps(region["value"]["rle"]) for region in prediction["result"]]
