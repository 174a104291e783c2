"""What the endpoint costs and gains: the predictor alone, over HTTP, and behind a bare FastAPI process, in one run.

    python -m benchmarks.serve                          a tiny random model, serve_configs/local_cpu.yaml
    python -m benchmarks.serve --size 8b                random weights of full size, serve_configs/one_gpu.yaml
    python -m benchmarks.serve --model s3://... --clients 1 8 --seconds 10

(a) `direct`: the predictor in batches as large as the number of clients, up to the config's largest; (b) `http`:
`serve deploy` on a Ray cluster of its own; (c) `bare`: FastAPI and uvicorn with the same predictor, one request at a
time. All with as many threads as a replica has. Each client sends its next image when it has the mask of the last one.
The three take turns, since a machine that others share is faster in one minute than in the next. Then the time from the
beginning of load that is too much for one replica until a second one runs. Prints a table and writes
benchmarks/serve.json.
"""

import argparse
import asyncio
import gc
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported

import aiohttp
import httpx
import numpy as np
import ray
import torch
import yaml
from PIL import Image
from ray import serve
from ray.serve.schema import ReplicaState

from benchmarks.predict import SIZES, build, teach_the_draft
from sa2va_ray.demo.request import wait_ready
from sa2va_ray.demo.stack import SCRIPTS_DIR, Stack, free_port
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.export.model_files import write_model_files
from sa2va_ray.export.weights import write_weights
from sa2va_ray.models.model_manifest import write_model_manifest
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query
from sa2va_ray.serve.config import ServeArgs

ROOT = Path(__file__).parent.parent
PROMPT = "Please segment the blood vessels."
IMAGE_SIDE = 512  # px
COLUMNS = ["way", "clients", "p50 ms", "p95 ms", "p99 ms", "images/s", "mean batch", "refused"]
NUM_TURNS = 3  # of each way, for each number of clients
WARM_UP_SHARE = 0.2  # of a turn's seconds, before them
METRICS_INTERVAL_S = 1
SCALING = {  # Serve's own defaults wait half a minute before a second replica
    "min_replicas": 1,
    "max_replicas": 2,
    "upscale_delay_s": 2,
    "metrics_interval_s": 1,
    "look_back_period_s": 3,
}
SCALING_LIMIT_S = 300
NUM_STAGED = 20  # requests whose stages are told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="exported model; without it random weights that say the usual answer")
    parser.add_argument("--size", choices=["tiny", *SIZES], default="tiny", help="of the random weights")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement, all turns together")
    arguments = parser.parse_args()
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {os.cpu_count()} CPUs"
    )
    model = arguments.model or f"random {arguments.size}"
    print(f"{model}, {device}, torch {torch.__version__}, Ray {ray.__version__}, {IMAGE_SIDE} x {IMAGE_SIDE} px JPEGs")
    print("  ".join(f"{column:>10}" for column in COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(arguments.model or _random_model(folder / "model", arguments.size))
        rows, facts = _measure(folder, config, _images(folder / "images"), arguments)
    _tell(goals := _against_goals(rows, arguments.clients))
    result = {"model": model, "device": device, "torch": torch.__version__, "ray": ray.__version__}
    (ROOT / "benchmarks/serve.json").write_text(json.dumps({**result, **facts, **goals, "rows": rows}, indent=2) + "\n")


def _config(model_uri: str) -> dict[str, Any]:
    """The shipped config for this machine, with one model."""
    file = "one_gpu.yaml" if torch.cuda.is_available() else "local_cpu.yaml"
    config = yaml.safe_load((ROOT / "serve_configs" / file).read_text())
    config["http_options"]["port"] = free_port(preferred=8000)
    args = config["applications"][0]["args"]
    (model,) = args["models"].values()
    args["models"] = {"bench": {**model, "uri": model_uri}}
    return config


def _model_args(config: dict[str, Any]) -> dict[str, Any]:
    return config["applications"][0]["args"]["models"]["bench"]


def _max_batch(config: dict[str, Any]) -> int:
    """In images, of which each counts as one megapixel."""
    return ServeArgs.parse(config["applications"][0]["args"]).models["bench"].batching.max_batch_megapixels


def _threads(config: dict[str, Any]) -> int:
    """That Ray gives a replica."""
    return max(1, int(_model_args(config)["cpus_per_replica"]))


def _random_model(folder: Path, size: str) -> str:
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


def _images(folder: Path) -> list[bytes]:
    """JPEGs of vessels."""
    write_synthetic_dataset(folder, num_patients=4, frames_per_patient=4, size=IMAGE_SIDE)
    return [file.read_bytes() for file in sorted((folder / "images").iterdir())]


def _measure(
    folder: Path, config: dict[str, Any], images: list[bytes], arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(rows of the table, seconds and stages by name)."""
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    # The ingress and two replicas fit in.
    with _cluster(folder, num_cpus=max(4, 1 + 2 * _threads(config))):
        start_s = time.perf_counter()
        _deploy(folder, config)
        wait_ready(url)
        facts = {"time to ready, s": time.perf_counter() - start_s}
        with _bare_server(config) as bare_url:
            ways: dict[str, Callable[[int, float], Turn]] = {
                "direct": _direct(config, images),
                "http": partial(_http, url, images),
                "bare": partial(_bare, bare_url, images),
            }
            rows = [row for clients in arguments.clients for row in _rows(ways, clients, arguments.seconds)]
        ways.clear()  # the model that was called directly
        gc.collect()
        torch.cuda.empty_cache()
        _tell(facts := facts | _stages(url, images))
        _tell(scaling := {"time 1 > 2 replicas, s": _time_to_second_replica(folder, config, url, images)})
    return rows, facts | scaling


@dataclass(frozen=True)
class Turn:
    """Attributes:
    latencies_s: of the images that were answered.
    seconds: in which they were.
    mean_batch: images of a forward pass.
    """

    latencies_s: list[float]
    seconds: float
    refused: int = 0
    mean_batch: float = 1.0


def _rows(ways: dict[str, Callable[[int, float], Turn]], clients: int, seconds: float) -> list[dict[str, Any]]:
    turns: dict[str, list[Turn]] = {way: [] for way in ways}
    for _ in range(NUM_TURNS):
        for way, take_turn in ways.items():
            turns[way].append(take_turn(clients, seconds / NUM_TURNS))
    return [_told(_row(way, clients, turns[way])) for way in ways]


def _direct(config: dict[str, Any], images: list[bytes]) -> Callable[[int, float], Turn]:
    torch.set_num_threads(_threads(config))
    predictor = load_predictor(_model_args(config)["uri"])
    decoded = [Image.open(io.BytesIO(file)).convert("RGB") for file in images]
    max_batch = _max_batch(config)

    def take_turn(clients: int, seconds: float) -> Turn:
        batch = min(clients, max_batch)
        # Copies: of an image that several queries share, the encoding is shared, too.
        queries = [Query(decoded[index % len(decoded)].copy(), PROMPT) for index in range(batch)]
        _for_seconds(WARM_UP_SHARE * seconds, partial(predictor.predict, queries))
        latencies_s, wall_s = _for_seconds(seconds, partial(predictor.predict, queries))
        return Turn(np.repeat(latencies_s, batch).tolist(), wall_s, mean_batch=batch)

    return take_turn


def _for_seconds(seconds: float, call: Callable[[], Any]) -> tuple[list[float], float]:
    """(duration of each call, of all of them), in s; one call at least."""
    begin_s = time.perf_counter()
    durations_s: list[float] = []
    while not durations_s or time.perf_counter() - begin_s < seconds:
        start_s = time.perf_counter()
        call()
        durations_s.append(time.perf_counter() - start_s)
    return durations_s, time.perf_counter() - begin_s


@contextmanager
def _cluster(folder: Path, num_cpus: int) -> Iterator[None]:
    with Stack(folder / "stack") as stack:
        stack.env["RAY_metrics_report_interval_ms"] = str(1000 * METRICS_INTERVAL_S)
        stack.start_ray(num_cpus=num_cpus)
        with stack.applied_env():
            ray.init(address=stack.ray_address, log_to_driver=False)
            yield
            ray.shutdown()


def _deploy(folder: Path, config: dict[str, Any]) -> None:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    subprocess.run([SCRIPTS_DIR / "serve", "deploy", file], check=True, capture_output=True)


def _batches() -> np.ndarray:
    """[images, forward passes] since the replicas' start, from the metrics that Ray exports."""
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics") as reply:
        text = reply.read().decode()
    found = [
        re.findall(rf"^ray_sa2va_serve_batch_images_{what}\{{.*\}} (\S+)$", text, re.MULTILINE)
        for what in ("total", "count")
    ]
    return np.array([sum(map(float, values)) for values in found])


def _http(url: str, images: list[bytes], clients: int, seconds: float) -> Turn:
    before = _batches()
    turn = _bare(url, images, clients, seconds)
    time.sleep(3 * METRICS_INTERVAL_S)
    num_images, num_batches = _batches() - before
    return replace(turn, mean_batch=num_images / num_batches)


def _bare(url: str, images: list[bytes], clients: int, seconds: float) -> Turn:
    return asyncio.run(_load(url, images, clients, seconds))


async def _load(url: str, images: list[bytes], clients: int, seconds: float) -> Turn:
    """The requests that end within the seconds after the warm-up."""
    begin_s = time.perf_counter() + WARM_UP_SHARE * seconds
    latencies_s: list[float] = []
    refused = 0

    async def client(http: aiohttp.ClientSession, number: int) -> None:
        nonlocal refused
        while (start_s := time.perf_counter()) < begin_s + seconds:
            form = aiohttp.FormData({"prompt": PROMPT})
            form.add_field("file", images[number % len(images)], filename="image", content_type="image/jpeg")
            async with http.post(f"{url}/v1/segment", data=form) as reply:
                await reply.read()
            if begin_s <= (end_s := time.perf_counter()) < begin_s + seconds:
                refused += not reply.ok
                latencies_s.extend([end_s - start_s] if reply.ok else [])
            number += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as http:
        await asyncio.gather(*(client(http, number) for number in range(clients)))
    return Turn(latencies_s, seconds, refused)


def _row(way: str, clients: int, turns: list[Turn]) -> dict[str, Any]:
    latencies_s = [latency_s for turn in turns for latency_s in turn.latencies_s]
    p50, p95, p99 = 1000 * np.percentile(latencies_s, [50, 95, 99]) if latencies_s else [float("nan")] * 3
    return {
        "way": way,
        "clients": clients,
        "p50 ms": float(p50),
        "p95 ms": float(p95),
        "p99 ms": float(p99),
        "images/s": (len(latencies_s) or float("nan")) / sum(turn.seconds for turn in turns),  # NaN: too short a turn
        "mean batch": float(np.mean([turn.mean_batch for turn in turns])),
        "refused": sum(turn.refused for turn in turns),
    }


def _stages(url: str, images: list[bytes]) -> dict[str, float]:
    """Medians for one client, as the endpoint itself tells them."""
    stages: dict[str, list[float]] = {}
    with httpx.Client(timeout=SCALING_LIMIT_S) as http:
        for number in range(NUM_STAGED):
            files = {"file": images[number % len(images)]}
            reply = http.post(f"{url}/v1/segment", files=files, data={"prompt": PROMPT})
            for stage, milliseconds in reply.raise_for_status().json()["timing_ms"].items():
                stages.setdefault(stage, []).append(milliseconds)
    return {f"{stage}, ms": float(np.median(values)) for stage, values in stages.items()}


def _time_to_second_replica(folder: Path, config: dict[str, Any], url: str, images: list[bytes]) -> float:
    """From the beginning of load of four full batches; upscale_delay_s is part of it."""
    model = _model_args(config)
    batch = _max_batch(config)
    model["autoscaling"] = {**SCALING, "target_ongoing_requests": batch}
    model["gpus_per_replica"] /= 2  # both on one GPU
    _deploy(folder, config)
    while (status := serve.status().applications["sa2va"].status) != "RUNNING":
        assert status != "DEPLOY_FAILED"
        time.sleep(0.2)
    return asyncio.run(_load_until_two(url, images, clients=4 * batch))


async def _load_until_two(url: str, images: list[bytes], clients: int) -> float:
    start_s = time.perf_counter()
    load = asyncio.create_task(_load(url, images, clients, SCALING_LIMIT_S))
    while not load.done() and await asyncio.to_thread(_num_running) < 2:
        await asyncio.sleep(0.2)
    seconds = time.perf_counter() - start_s
    load.cancel()
    return seconds


def _num_running() -> int:
    application = serve.status().applications["sa2va"]
    return application.deployments["model-bench"].replica_states.get(ReplicaState.RUNNING, 0)


@contextmanager
def _bare_server(config: dict[str, Any]) -> Iterator[str]:
    """Its URL."""
    port = free_port(preferred=8001)
    command = [sys.executable, "-m", "benchmarks.bare_server", _model_args(config)["uri"], port, _threads(config)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(list(map(str, command)), cwd=ROOT) as server:
        try:
            wait_ready(url)
            yield url
        finally:
            server.terminate()


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """Printed at once: a run that is cut off has shown what it measured."""
    cells = [f"{row[column]:.2f}" if isinstance(row[column], float) else str(row[column]) for column in COLUMNS]
    print("  ".join(f"{cell:>10}" for cell in cells), flush=True)
    return row


def _tell(facts: dict[str, float]) -> None:
    for name, value in facts.items():
        print(f"{name}: {value:.2f}", flush=True)


def _against_goals(rows: list[dict[str, Any]], clients: list[int]) -> dict[str, float]:
    """At the fewest clients what HTTP adds, at the most what it keeps of the batched throughput, and against (c)."""
    by = {(row["way"], row["clients"]): row for row in rows}
    few, many = min(clients), max(clients)
    rate = {way: by[way, many]["images/s"] for way in ("direct", "http", "bare")}
    return {
        f"http - direct at {few}, p50 ms": by["http", few]["p50 ms"] - by["direct", few]["p50 ms"],
        f"http / direct at {many}, images/s": rate["http"] / rate["direct"],
        f"http / bare at {many}, images/s": rate["http"] / rate["bare"],
    }


if __name__ == "__main__":
    main()
