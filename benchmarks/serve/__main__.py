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
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported

import numpy as np
import ray
import torch

from benchmarks.predict import SIZES
from benchmarks.serve.endpoint import (
    IMAGE_SIDE,
    ROOT,
    cluster,
    deploy,
    jpegs,
    measure_stages,
    model_args,
    num_threads,
    shipped_config,
    write_random_model,
)
from benchmarks.serve.load import Turn, direct, over_bare_http, over_http
from benchmarks.serve.scaling import time_to_second_replica
from sa2va_ray.demo.request import wait_ready
from sa2va_ray.demo.stack import free_port

COLUMNS = ["way", "clients", "p50 ms", "p95 ms", "p99 ms", "images/s", "mean batch", "refused"]
NUM_TURNS = 3  # of each way, for each number of clients


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
        config = shipped_config(arguments.model or write_random_model(folder / "model", arguments.size))
        rows, facts = _measure(folder, config, jpegs(folder / "images"), arguments)
    _tell(goals := _against_goals(rows, arguments.clients))
    result = {"model": model, "device": device, "torch": torch.__version__, "ray": ray.__version__}
    (ROOT / "benchmarks/serve.json").write_text(json.dumps({**result, **facts, **goals, "rows": rows}, indent=2) + "\n")


def _measure(
    folder: Path, config: dict[str, Any], images: list[bytes], arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(rows of the table, seconds and stages by name)."""
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    # The ingress and two replicas fit in.
    with cluster(folder, num_cpus=max(4, 1 + 2 * num_threads(config))):
        start_s = time.perf_counter()
        deploy(folder, config)
        wait_ready(url)
        facts = {"time to ready, s": time.perf_counter() - start_s}
        with bare_server(config) as bare_url:
            ways: dict[str, Callable[[int, float], Turn]] = {
                "direct": direct(config, images),
                "http": partial(over_http, url, images),
                "bare": partial(over_bare_http, bare_url, images),
            }
            rows = [row for clients in arguments.clients for row in _rows(ways, clients, arguments.seconds)]
        ways.clear()  # the model that was called directly
        gc.collect()
        torch.cuda.empty_cache()
        _tell(facts := facts | measure_stages(url, images))
        _tell(scaling := {"time 1 > 2 replicas, s": time_to_second_replica(folder, config, url, images)})
    return rows, facts | scaling


def _rows(ways: dict[str, Callable[[int, float], Turn]], clients: int, seconds: float) -> list[dict[str, Any]]:
    turns: dict[str, list[Turn]] = {way: [] for way in ways}
    for _ in range(NUM_TURNS):
        for way, take_turn in ways.items():
            turns[way].append(take_turn(clients, seconds / NUM_TURNS))
    return [_told(_row(way, clients, turns[way])) for way in ways]


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


@contextmanager
def bare_server(config: dict[str, Any]) -> Iterator[str]:
    """Starts the bare server; yields its URL."""
    port = free_port(preferred=8001)
    arguments = [model_args(config)["uri"], port, num_threads(config)]
    command = [sys.executable, "-m", "benchmarks.serve.bare_server", *arguments]
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
