"""Serve's own commands on what we ship: `serve run`, `serve deploy`, `serve build`."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray import serve

from sa2va_ray.demo.request import wait_ready
from sa2va_ray.demo.stack import SCRIPTS_DIR, free_port

ROOT = Path(__file__).parents[2]
COLD_START_S = 120
ON_THIS_MACHINE = {"cpus_per_replica": 0.25, "gpus_per_replica": 0}


def run_serve(*arguments: str | Path, cwd: Path = ROOT) -> None:
    command = [SCRIPTS_DIR / "serve", *arguments]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def shipped(exported_uri: str, tmp_path: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A shipped file by name, with a tiny model for each of its models and a free port. Serve is shut down after."""

    def load(name: str) -> dict[str, Any]:
        config = yaml.safe_load((ROOT / "serve_configs" / name).read_text())
        config["http_options"]["port"] = free_port(preferred=8000)
        args = config["applications"][0]["args"]
        args["cache_dir"] = str(tmp_path / "models")
        args["models"] = {
            name: {**model, **ON_THIS_MACHINE, "uri": exported_uri} for name, model in args["models"].items()
        }
        return config

    yield load
    run_serve("shutdown", "--yes")


def url_of(config: dict[str, Any]) -> str:
    return f"http://127.0.0.1:{config['http_options']['port']}"


def test_serve_build_writes_what_serve_deploy_takes(stack, exported_uri, tmp_path):
    (tmp_path / "my_endpoint.py").write_text(
        "from sa2va_ray.serve.app import build_app\n"
        "from sa2va_ray.serve.config import ServeArgs\n"
        f"app = build_app(ServeArgs(models={{'tiny': {{'uri': '{exported_uri}', 'max_surge_percent': 50}}}}))\n"
    )
    run_serve("build", "my_endpoint:app", "-o", "mine.yaml", cwd=tmp_path)
    (application,) = yaml.safe_load((tmp_path / "mine.yaml").read_text())["applications"]
    assert application["import_path"] == "my_endpoint:app"
    deployments = {each["name"]: each for each in application["deployments"]}
    assert deployments["Ingress"]["max_surge_percent"] == 100
    assert deployments["model-tiny"]["max_surge_percent"] == 50
    assert deployments["model-tiny"]["user_config"]["max_batch_megapixels"] == 8


@pytest.mark.soak
def test_serve_run_answers_until_it_is_interrupted(stack, shipped, tmp_path, png):
    config = shipped("local_cpu.yaml")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    # Whoever started these tests in the background has them ignore SIGINT, which a child inherits.
    command = ["env", "--default-signal=INT", SCRIPTS_DIR / "serve", "run", path]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        try:
            wait_ready(url_of(config))
            reply = httpx.post(f"{url_of(config)}/v1/segment", files={"file": png}, timeout=60)
            assert reply.json()["model"]["name"] == "demo"
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=60)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url_of(config)}/livez", timeout=10)


@pytest.mark.soak
def test_a_model_that_nobody_asks_for_has_no_replica(ray_cluster, shipped, tmp_path, png):
    """autoscale.yaml, with its shape and with delays of seconds."""
    config = shipped("autoscale.yaml")
    models = config["applications"][0]["args"]["models"]
    for model in models.values():
        model["autoscaling"] |= {"metrics_interval_s": 1, "look_back_period_s": 3, "downscale_delay_s": 5}
    models["octa-2b"]["autoscaling"]["downscale_to_zero_delay_s"] = 5
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    run_serve("deploy", path)
    wait_ready(url_of(config))
    assert num_replicas() == {"model-octa-8b": 1, "model-octa-2b": 0}
    started_s = time.monotonic()
    for name in models:
        form = {"files": {"file": png}, "data": {"model": name}}
        reply = httpx.post(f"{url_of(config)}/v1/segment", **form, timeout=COLD_START_S)
        assert reply.json()["model"]["name"] == name, reply.text
    print(f"from no replica to an answer: {time.monotonic() - started_s:.1f} s")
    assert num_replicas()["model-octa-2b"] == 1
    deadline_s = time.monotonic() + COLD_START_S
    while num_replicas()["model-octa-2b"] and time.monotonic() < deadline_s:
        time.sleep(1)
    assert num_replicas() == {"model-octa-8b": 1, "model-octa-2b": 0}
    assert httpx.get(f"{url_of(config)}/readyz", timeout=10).status_code == 200


def num_replicas() -> dict[str, int]:
    """That run, of the model deployments."""
    deployments = serve.status().applications["sa2va"].deployments
    return {
        name: each.replica_states.get("RUNNING", 0) for name, each in deployments.items() if name.startswith("model-")
    }
