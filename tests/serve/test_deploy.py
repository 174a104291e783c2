"""What a new calibration, a changed file, other weights and a failure do to what runs."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.demo.request import wait_ready
from sa2va_ray.demo.stack import SCRIPTS_DIR, free_port
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, update_model_manifest, write_model_manifest
from sa2va_ray.serve.deploy import deploy
from sa2va_ray.serve.deploy_config import DeployConfig

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
START_S = 120


@pytest.fixture
def application(exported_uri, bucket_uri, tmp_path):
    """local_cpu.yaml with a copy of the tiny model, not deployed yet; and a function that deploys it."""
    storage.download_folder(exported_uri, tmp_path / "model")
    storage.upload_folder(tmp_path / "model", bucket_uri, last=MODEL_MANIFEST)
    config = yaml.safe_load((ROOT / "serve_configs/local_cpu.yaml").read_text())
    config["http_options"]["port"] = free_port(preferred=8000)
    args = config["applications"][0]["args"]
    args["models"]["demo"]["uri"] = bucket_uri
    args["cache_dir"] = str(tmp_path / "cache")

    def serve_deploy() -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        command = [SCRIPTS_DIR / "serve", "deploy", tmp_path / "config.yaml"]
        subprocess.run(command, check=True, timeout=120, capture_output=True)

    yield config, serve_deploy
    subprocess.run([SCRIPTS_DIR / "serve", "shutdown", "--yes"], check=True, timeout=120, capture_output=True)


@pytest.fixture
def state(stack) -> Callable[[], dict[str, Any]]:
    """The application as the dashboard tells it. (A process that asks Serve itself keeps the controller that it first
    found, also after `serve shutdown`.)"""

    def ask() -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
        reply = httpx.get(f"{stack.dashboard_url}/api/serve/applications/", headers=headers, timeout=60)
        return reply.json()["applications"]["sa2va"]

    return ask


def until(is_so: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + START_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.5)


def replica_ids(state: dict[str, Any]) -> set[str]:
    replicas = state["deployments"]["model-demo"]["replicas"]
    return {each["replica_id"] for each in replicas if each["state"] == "RUNNING"}


def test_batches_change_in_place_and_so_does_a_calibration(application, state, png):
    config, serve_deploy = application
    (app,) = config["applications"]
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    serve_deploy()
    wait_ready(url)
    first = replica_ids(state())
    app["deployments"] = [{"name": "model-demo", "user_config": {"max_batch_megapixels": 2}}]
    serve_deploy()
    until(lambda: state()["status"] == "RUNNING")
    assert replica_ids(state()) == first
    assert httpx.post(f"{url}/v1/segment", files={"file": png}, timeout=60).status_code == 200

    uri = app["args"]["models"]["demo"]["uri"]
    sha256 = httpx.get(f"{url}/v1/models/demo", timeout=60).json()["sha256"]
    update_model_manifest(uri, {"threshold": 0.31, "cleanup": {"min_component_px": 7}})
    until(lambda: httpx.get(f"{url}/v1/models/demo", timeout=60).json()["threshold"] == 0.31)
    assert replica_ids(state()) == first
    reply = httpx.post(f"{url}/v1/segment", files={"file": png}, timeout=60).json()
    assert (reply["threshold"], reply["cleanup"]["min_component_px"]) == (0.31, 7)
    assert reply["model"]["sha256"] == sha256


def test_the_verb_tries_again_what_failed_and_serves_what_was_exported_anew(application, tmp_path):
    config, _ = application
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"sa2va does not run: .*File exists.* deploy the same file again"):
        deploy(DeployConfig.parse(config))
    (tmp_path / "cache").unlink()
    assert deploy(DeployConfig.parse(config)) == [f"{url}/"]
    first = httpx.get(f"{url}/v1/models/demo", timeout=60).json()
    assert first["sha256"] == first["stored_sha256"]

    uri = config["applications"][0]["args"]["models"]["demo"]["uri"]
    (tmp_path / "model/note.txt").write_text("another model")
    other = write_model_manifest(tmp_path / "model", {"name": "other"})
    storage.upload_folder(tmp_path / "model", uri, last=MODEL_MANIFEST)
    until(lambda: "notices" in httpx.get(f"{url}/readyz", timeout=60).json())
    told = httpx.get(f"{url}/v1/models/demo", timeout=60).json()
    assert (told["sha256"], told["stored_sha256"]) == (first["sha256"], other)
    deploy(DeployConfig.parse(config))
    until(lambda: httpx.get(f"{url}/v1/models/demo", timeout=60).json()["sha256"] == other)
    assert httpx.get(f"{url}/readyz", timeout=60).json() == {"status": "ready"}
