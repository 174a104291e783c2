"""The endpoint that is measured: its config, its model and images, and its replicas."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported

import ray
import torch
import yaml
from ray import serve
from ray.serve.schema import ReplicaState

from benchmarks.predict import build, teach_the_draft
from sa2va_ray.demo.stack import Stack, free_port
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.export.model_files import write_model_files
from sa2va_ray.export.shards import write_weights
from sa2va_ray.models.model_manifest import write_model_manifest
from sa2va_ray.serve.config import ServeArgs

ROOT = Path(__file__).parents[2]
PROMPT = "Please segment blood vessels in this image."
IMAGE_SIDE = 512  # px
_MODEL = "model-bench"
_POLL_S = 0.5
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


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


def serve_args(config: dict[str, Any]) -> ServeArgs:
    return ServeArgs.parse(config["applications"][0]["args"])


def max_batch(config: dict[str, Any]) -> int:
    """Largest batch in images, each of which counts as one megapixel."""
    return serve_args(config).models["bench"].batching.max_batch_megapixels


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
    """The cluster of RAY_ADDRESS, from which Serve is taken away at the end; one of its own without."""
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
        try:
            yield
        finally:
            serve.shutdown()
        return
    with Stack(folder / "stack") as stack:
        stack.start_ray(num_cpus=num_cpus)
        with stack.applied_env():
            ray.init(log_to_driver=False)
            yield
            ray.shutdown()


def deploy(folder: Path, config: dict[str, Any], num_replicas: int | None = None) -> None:
    """Has the config served, and waits until all replicas run. Unlike `serve deploy` this needs no dashboard.

    Args:
        num_replicas: of the model, with as many times the file's ingresses. Those that run go on, since the `args` stay
            as they are; None leaves both as the `args` say.

    Raises:
        RuntimeError: Serve says that it has failed.
    """
    application = config["applications"][0]
    if num_replicas:
        num_ingresses = num_replicas * serve_args(config).num_ingresses
        application["deployments"] = [
            {"name": _MODEL, "num_replicas": num_replicas},
            {"name": "Ingress", "num_replicas": num_ingresses},
        ]
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "--non-blocking", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    while (status := serve.status().applications["sa2va"]).status != "RUNNING":
        if status.status in _FAILED:
            raise RuntimeError(status.message)
        time.sleep(_POLL_S)


def num_running() -> int:
    application = serve.status().applications["sa2va"]
    return application.deployments[_MODEL].replica_states.get(ReplicaState.RUNNING, 0)
