"""What `jobs.deploy` sends to Serve, and what it says of its end, against a cluster that is played."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.models.model_manifest import update_model_manifest, write_model_manifest
from sa2va_ray.serve import deploy as deploy_module
from sa2va_ray.serve.deploy import deploy
from sa2va_ray.serve.deploy_config import DeployConfig

ROOT = Path(__file__).parents[2]
TRACEBACK = (
    "Traceback (most recent call last):\n  File x\nray.exceptions.RayTaskError: build()\n"
    "sa2va_ray.manifest.DamagedError: /m is not complete. Export it.\n\nMore of Ray."
)


class Cluster:
    """Serve on a cluster, whose application has in turn these states after each deployment."""

    def __init__(self, *states: dict[str, Any]):
        self.states, self.sent, self.applications, self.is_here = states, [], {}, False
        self.proxies = ["HEALTHY"]

    def get_serve_details(self) -> dict[str, Any]:
        if self.applications and self._left:
            self.applications["sa2va"] |= self._left.pop(0)
        return {
            "applications": self.applications,
            "proxies": {str(number): {"status": status} for number, status in enumerate(self.proxies)},
            "http_options": {"host": "0.0.0.0", "port": 8000},
        }

    def deploy_applications(self, config: dict[str, Any]) -> None:
        self.sent.append(config["applications"][0]["args"].get("revision"))
        self.applications = {"sa2va": {"route_prefix": "/a", "deployed_app_config": config["applications"][0]}}
        self._left = list(self.states)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_text("first")
    write_model_manifest(tmp_path, {"threshold": 0.5})
    return tmp_path


@pytest.fixture
def run(monkeypatch, model):
    """Deploys local_cpu.yaml with that model on a played cluster."""
    monkeypatch.setattr(deploy_module, "_POLL_S", 0.001)
    clock = iter(range(99))
    monkeypatch.setattr(deploy_module, "_now", lambda: f"time {next(clock)}")

    def deploy_on(cluster: Cluster, uri: str = str(model), **changes: Any) -> list[str]:
        monkeypatch.setattr(deploy_module, "_client", lambda: cluster)
        monkeypatch.setattr(deploy_module, "is_head_here", lambda _: cluster.is_here)
        values = DeployConfig.load([str(ROOT / "serve_configs/local_cpu.yaml")]).model_dump(exclude_unset=True)
        values["applications"][0]["args"]["models"]["demo"]["uri"] = uri
        return deploy(DeployConfig.parse(values | changes))

    return deploy_on


def test_the_same_model_is_the_same_deployment_and_another_one_another(run, model):
    cluster = Cluster({"status": "DEPLOYING"}, {"status": "RUNNING"})
    assert run(cluster) == ["http://NODE:8000/a"]
    update_model_manifest(model, {"threshold": 0.2})  # is taken up by what runs
    run(cluster)
    (model / "weights").write_text("second")
    write_model_manifest(model, {"threshold": 0.5})
    run(cluster)
    first, again, other = cluster.sent
    assert first == again != other


def test_what_failed_is_tried_again_and_then_left_alone(run):
    cluster = Cluster({"status": "DEPLOYING"}, {"status": "DEPLOY_FAILED", "message": TRACEBACK})
    with pytest.raises(UserError) as told:
        run(cluster)
    assert str(told.value) == (
        "sa2va does not run: /m is not complete. Export it. Mend it, and deploy the same file again."
    )
    cluster.states = ({"status": "DEPLOYING", "message": ""}, {"status": "RUNNING"})
    run(cluster)
    run(cluster)
    failed, again, same = cluster.sent
    assert again == same == f"{failed} again at time 0"


def test_a_model_of_another_machine_is_left_to_the_cluster(run, tmp_path):
    cluster = Cluster({"status": "RUNNING"})
    run(cluster, uri=str(tmp_path / "elsewhere"))
    run(cluster, uri=str(tmp_path / "elsewhere"))
    assert cluster.sent == ["time 0", "time 1"], "it may be another one by now"


def test_a_model_that_is_not_there_or_is_none_is_told_before_anything_is_sent(run, tmp_path):
    cluster = Cluster({"status": "RUNNING"})
    cluster.is_here = True
    with pytest.raises(UserError, match=r"^Nothing was deployed\. models\.demo\.uri: There is nothing at .*elsewhere"):
        run(cluster, uri=str(tmp_path / "elsewhere"))
    for file, what in {"train_state.json": "checkpoint", "quarantine.jsonl": "data set", "run.json": "run"}.items():
        folder = tmp_path / what
        folder.mkdir()
        (folder / file).write_text("{}")
        with pytest.raises(
            UserError, match=rf"^Nothing was deployed\. models\.demo\.uri: .* {what}, and no exported mod"
        ):
            run(cluster, uri=str(folder))
    with pytest.raises(UserError, match=r"models\.demo\.uri.* is relative, .* Hugging Face hub is fetched"):
        run(cluster, uri="ByteDance/Sa2VA-4B")
    assert cluster.sent == []


def test_a_wrong_address_is_told_by_a_real_cluster_before_serve_is_started(stack, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", stack.dashboard_url)
    values = DeployConfig.load([str(ROOT / "serve_configs/local_cpu.yaml")]).model_dump(exclude_unset=True)
    values["applications"][0]["args"]["models"]["demo"]["uri"] = str(tmp_path / "none")
    start_s = time.monotonic()
    with pytest.raises(UserError, match=r"^Nothing was deployed\. models\.demo\.uri: There is nothing at "):
        deploy(DeployConfig.parse(values))
    assert time.monotonic() - start_s < 20


def test_a_deployment_that_takes_too_long_goes_on_and_says_how_far_it_is(run):
    replicas = {"target_num_replicas": 2, "replicas": [{"state": "RUNNING"}, {"state": "STARTING"}]}
    cluster = Cluster({"status": "DEPLOYING", "deployments": {"model-demo": replicas}})
    with pytest.raises(UserError, match=r"after wait_s=0.01 s: .*\(model-demo 1 of 2 replicas\).*`serve status`"):
        run(cluster, wait_s=0.01)


def test_a_port_that_another_program_has_is_no_endpoint(run, monkeypatch):
    """Serve says RUNNING all the same, and the other program answers."""
    monkeypatch.setattr(deploy_module, "_LISTENS_WITHIN_S", 0.01)
    cluster = Cluster({"status": "RUNNING"})
    cluster.proxies = ["STARTING"]
    with pytest.raises(UserError, match=r"does not listen at 0\.0\.0\.0:8000\..* has the port"):
        run(cluster)
    cluster.proxies = ["STARTING", "HEALTHY"]
    assert run(cluster)


def test_a_port_that_serve_does_not_get_at_its_start_is_told(run, monkeypatch):
    """The dashboard sends a traceback, whose last line is a full stop."""
    cluster = Cluster()
    reason = "Traceback ...\nRuntimeError: Failed to bind to address '127.0.0.1:8000'.\n."
    monkeypatch.setattr(cluster, "deploy_applications", lambda config: raise_error(reason))
    with pytest.raises(UserError, match=r"does not listen at 127\.0\.0\.1:8000\..* has the port"):
        run(cluster)
    reason = "Traceback ...\nRuntimeError: No room.\n."
    with pytest.raises(UserError, match=r"does not take the file: RuntimeError: No room\."):
        run(cluster)


def raise_error(reason: str) -> None:
    raise RuntimeError(reason)


def test_wrong_args_are_told_before_anything_is_sent(run):
    cluster = Cluster({"status": "RUNNING"})
    with pytest.raises(UserError, match="unknown key modles"):
        run(cluster, applications=[{"name": "a", "import_path": deploy_module._BUILDER, "args": {"modles": {}}}])
    with pytest.raises(UserError, match=r"Ray Serve does not take the file:\n  .*port"):
        run(cluster, http_options={"port": "many"})
    with pytest.raises(UserError, match=r"ServeArgs is a group of keys, .*, and no value 5"):
        run(cluster, applications=[{"name": "a", "import_path": deploy_module._BUILDER, "args": 5}])
    assert cluster.sent == []


def with_keys(model: Path, file: Path) -> list[dict[str, Any]]:
    args = {"models": {"demo": {"uri": str(model)}}, "api_keys_file": str(file)}
    return [{"name": "sa2va", "import_path": deploy_module._BUILDER, "args": args}]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b"sk-secret", b'[{"id": "a"}]', b'[{"id": "a", "sha256": "k"}]']
)
def test_a_wrong_file_of_api_keys_is_told_before_anything_is_sent(run, model, content):
    file = model.parent / "keys.json"
    file.write_bytes(content)
    cluster = Cluster({"status": "RUNNING"})
    with pytest.raises(UserError, match=r"^Nothing was deployed\. .*keys\.json") as told:
        run(cluster, applications=with_keys(model, file))
    assert "secret" not in str(told.value)
    assert cluster.sent == []


def test_a_file_of_api_keys_that_is_not_here_may_be_on_the_cluster_unless_that_is_here(run, model):
    cluster = Cluster({"status": "RUNNING"})
    run(cluster, applications=with_keys(model, model / "keys.json"))
    assert len(cluster.sent) == 1
    cluster.is_here = True
    with pytest.raises(UserError, match=r"Nothing was deployed\. There is no file of API keys at .*keys\.json"):
        run(cluster, applications=with_keys(model, model / "keys.json"))
    assert len(cluster.sent) == 1


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_dashboard_that_wants_another_token_is_told_in_a_line(token, stack, tmp_path):
    """In a process of its own: Ray reads a token once."""
    (tmp_path / "token").write_text(token or "")
    environment = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    del environment["RAY_AUTH_TOKEN"]
    command = [Path(sys.executable).with_name("sa2va-ray"), "deploy", ROOT / "serve_configs/local_cpu.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert re.search(r"error: No Ray dashboard takes the deployment .*[Tt]oken.*sa2va-ray env", said), said
    assert len(said) < 500
