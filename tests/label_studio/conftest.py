"""The real Label Studio, and an endpoint that is its ML back end; for `soak` alone."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sa2va_ray.demo.request import wait_ready
from sa2va_ray.demo.stack import SCRIPTS_DIR, Stack, free_port
from tests.label_studio.real import real_label_studio

ROOT = Path(__file__).parents[2]
RETRAIN_AFTER = 4
RETRAIN_STATE = "s3://tests/loop-state/retraining.json"


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with real_label_studio(tmp_path_factory.mktemp("label_studio"), os.environ["LABEL_STUDIO_TOKEN"]) as url:
        yield url


@pytest.fixture(scope="package")
def endpoint(stack: Stack, exported_uri: str, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With the server in its config, and a job that starts after a few annotations. The token is in the environment of
    the session's Ray processes."""
    config = yaml.safe_load((ROOT / "serve_configs/local_cpu.yaml").read_text())
    config["http_options"]["port"] = port = free_port(preferred=8000)
    args = config["applications"][0]["args"]
    for model in args["models"].values():
        model["uri"] = exported_uri
    retrain = {"retrain_after": RETRAIN_AFTER, "entrypoint": "echo trained", "state_uri": RETRAIN_STATE}
    cache_dir = str(tmp_path_factory.mktemp("models"))
    args |= {"label_studio": {"url": server}, "cache_dir": cache_dir, "retrain": retrain, "num_ingresses": 2}
    path = tmp_path_factory.mktemp("serve") / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    subprocess.run([SCRIPTS_DIR / "serve", "deploy", path], check=True, timeout=120, capture_output=True)
    wait_ready(f"http://127.0.0.1:{port}")
    yield f"http://127.0.0.1:{port}"
    subprocess.run([SCRIPTS_DIR / "serve", "shutdown", "--yes"], check=True, timeout=120, capture_output=True)
