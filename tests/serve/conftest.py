"""One endpoint for the tests of this folder: local_cpu.yaml deployed on a real cluster, with two models."""

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sa2va_ray.demo.request import wait_ready
from sa2va_ray.demo.stack import SCRIPTS_DIR, free_port
from sa2va_ray.predict.predictor import Sa2VAPredictor

ROOT = Path(__file__).parents[2]
MAX_UPLOAD_BYTES = 8 * 10**6


@pytest.fixture(scope="package")
def audit_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="package")
def endpoint(stack, exported_uri, tmp_path_factory, audit_dir) -> Iterator[str]:
    config = yaml.safe_load((ROOT / "serve_configs/local_cpu.yaml").read_text())
    config["http_options"]["port"] = port = free_port(preferred=8000)
    args = config["applications"][0]["args"]
    (model,) = args["models"].values()
    args["models"] = {
        "tiny": model | {"uri": exported_uri},
        "again": model
        | {
            "uri": exported_uri,
            "default_prompt": "What is the vessel?",
            "cpus_per_replica": 0.25,
            "batching": {"max_batch_megapixels": 1},
        },
    }
    args["default_model"] = "tiny"
    args["limits"] = {"max_upload_bytes": MAX_UPLOAD_BYTES, "read_timeout_s": 2}
    args["uris"] = {"allowed_uri_prefixes": ["s3://tests/silent/"], "timeout_s": 1}
    args |= {"audit_dir": str(audit_dir), "cache_dir": str(tmp_path_factory.mktemp("models"))}
    path = tmp_path_factory.mktemp("serve") / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    subprocess.run([SCRIPTS_DIR / "serve", "deploy", path], check=True, timeout=120, capture_output=True)
    wait_ready(f"http://127.0.0.1:{port}")
    yield f"http://127.0.0.1:{port}"
    subprocess.run([SCRIPTS_DIR / "serve", "shutdown", "--yes"], check=True, timeout=120, capture_output=True)


@pytest.fixture(scope="package")
def predictor(exported_uri):
    return Sa2VAPredictor.from_pretrained(exported_uri)


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 80, 3), np.uint8))


@pytest.fixture(scope="module")
def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
