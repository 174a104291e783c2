"""The endpoint that is measured: its config, its model and images, and what it tells of itself."""

import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported

import httpx
import numpy as np
import ray
import torch
import yaml
from ray import serve
from ray.serve.schema import ReplicaState

from benchmarks.predict import build, teach_the_draft
from sa2va_ray.demo.stack import SCRIPTS_DIR, Stack, free_port
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.export.model_files import write_model_files
from sa2va_ray.export.shards import write_weights
from sa2va_ray.models.model_manifest import write_model_manifest
from sa2va_ray.serve.config import ServeArgs

ROOT = Path(__file__).parents[2]
PROMPT = "Please segment blood vessels in this image."
IMAGE_SIDE = 512  # px
METRICS_INTERVAL_S = 1
REPLY_LIMIT_S = 300
NUM_STAGED = 20  # requests whose stages are told


def shipped_config(model_uri: str) -> dict[str, Any]:
    """The shipped config for this machine, with one model."""
    file = "one_gpu.yaml" if torch.cuda.is_available() else "local_cpu.yaml"
    config = yaml.safe_load((ROOT / "serve_configs" / file).read_text())
    config["http_options"]["port"] = free_port(preferred=8000)
    args = config["applications"][0]["args"]
    (model,) = args["models"].values()
    args["models"] = {"bench": {**model, "uri": model_uri}}
    return config


def model_args(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of the one model in a config."""
    return config["applications"][0]["args"]["models"]["bench"]


def max_batch(config: dict[str, Any]) -> int:
    """Largest batch in images, each of which counts as one megapixel."""
    return ServeArgs.parse(config["applications"][0]["args"]).models["bench"].batching.max_batch_megapixels


def num_threads(config: dict[str, Any]) -> int:
    """Threads that Ray gives a replica."""
    return max(1, int(model_args(config)["cpus_per_replica"]))


def write_random_model(folder: Path, size: str) -> str:
    """An exported folder whose model says the usual answer, as a trained one does."""
    folder.mkdir()
    model, processor = build(size, "cuda" if torch.cuda.is_available() else "cpu")
    teach_the_draft(model, processor)
    write_model_files(folder, model.config, processor, "own")
    tensors = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_weights(folder, shapes, lambda name: tensors[name].to("cpu", torch.bfloat16), "own", max_shard_gib=4)
    write_model_manifest(folder, {"name": f"random-{size}"})
    return str(folder)


def jpegs(folder: Path) -> list[bytes]:
    """JPEGs of vessels."""
    write_synthetic_dataset(folder, num_patients=4, frames_per_patient=4, size=IMAGE_SIDE)
    return [file.read_bytes() for file in sorted((folder / "images").iterdir())]


@contextmanager
def cluster(folder: Path, num_cpus: int) -> Iterator[None]:
    with Stack(folder / "stack") as stack:
        stack.env["RAY_metrics_report_interval_ms"] = str(1000 * METRICS_INTERVAL_S)
        stack.start_ray(num_cpus=num_cpus)
        with stack.applied_env():
            ray.init(address=stack.ray_address, log_to_driver=False)
            yield
            ray.shutdown()


def deploy(folder: Path, config: dict[str, Any]) -> None:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    subprocess.run([SCRIPTS_DIR / "serve", "deploy", file], check=True, capture_output=True)


def count_batches() -> np.ndarray:
    """[images, forward passes] since the replicas' start, from the metrics that Ray exports."""
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics") as reply:
        text = reply.read().decode()
    found = [
        re.findall(rf"^ray_sa2va_serve_batch_images_{what}\{{.*\}} (\S+)$", text, re.MULTILINE)
        for what in ("total", "count")
    ]
    return np.array([sum(map(float, values)) for values in found])


def measure_stages(url: str, images: list[bytes]) -> dict[str, float]:
    """Medians for one client, as the endpoint itself tells them."""
    stages: dict[str, list[float]] = {}
    with httpx.Client(timeout=REPLY_LIMIT_S) as http:
        for number in range(NUM_STAGED):
            files = {"file": images[number % len(images)]}
            reply = http.post(f"{url}/v1/segment", files=files, data={"prompt": PROMPT})
            for stage, milliseconds in reply.raise_for_status().json()["timing_ms"].items():
                stages.setdefault(stage, []).append(milliseconds)
    return {f"{stage}, ms": float(np.median(values)) for stage, values in stages.items()}


def num_running() -> int:
    application = serve.status().applications["sa2va"]
    return application.deployments["model-bench"].replica_states.get(ReplicaState.RUNNING, 0)
