"""What the endpoint costs and gains: the predictor alone, over HTTP, and behind a bare FastAPI process, in one run.

    python -m benchmarks.serve                          a tiny random model, serve_configs/local_cpu.yaml
    python -m benchmarks.serve --size 8b                random weights of full size, serve_configs/one_gpu.yaml
    python -m benchmarks.serve --model s3://... --clients 1 8 --seconds 10
    python -m benchmarks.serve --size 8b --ways http --replicas 2 1 --clients 64 128

`direct`: the predictor in batches as large as the number of clients, up to the config's largest; `http`: the shipped
config on a Ray cluster of its own, or on that of RAY_ADDRESS, which needs no dashboard; `bare`: FastAPI and uvicorn
with the same predictor, one request at a time. All with as many threads as a replica has. Each client sends its next
image when it has the mask of the last one. The ways take turns, since a machine that others share is faster in one
minute than in the next. `scaling` is the time from the beginning of load that is too much for one replica until a
second one runs.

Prints each row when it is measured, with the parts of one request's time, and writes benchmarks/serve.json. What
`--limit` leaves no time for is missing there.
"""

import argparse
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported

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
    model_args,
    num_threads,
    shipped_config,
    write_random_model,
)
from benchmarks.serve.load import Turn, direct, over_http
from benchmarks.serve.scaling import time_to_second_replica
from sa2va_ray.demo.request import wait_ready
from sa2va_ray.demo.stack import free_port

WAYS = ("direct", "http", "bare", "scaling")
COLUMNS = ["way", "replicas", "clients", "p50 ms", "p95 ms", "p99 ms", "images/s", "mean batch", "refused"]
NUM_TURNS = 3  # of each way, for each number of clients

TakeTurn = Callable[[int, float], Turn]


class OutOfTime(BaseException):
    """`--limit` is over."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="exported model; without it random weights that say the usual answer")
    parser.add_argument("--size", choices=["tiny", *SIZES], default="tiny", help="of the random weights")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1], help="one after the other, in this order")
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement, all turns together")
    parser.add_argument("--limit", type=int, default=0, help="of all, s; 0 is none")
    arguments = parser.parse_args()
    report = Report(arguments.model or f"random {arguments.size}")
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(arguments.limit)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = shipped_config(arguments.model or write_random_model(folder / "model", arguments.size))
            gc.collect()
            torch.cuda.empty_cache()
            _measure(folder, config, jpegs(folder / "images"), arguments, report)
    except OutOfTime:
        print(f"stopped after {arguments.limit} s; the rest was not measured", flush=True)


def _stop(*_: Any) -> None:
    raise OutOfTime


class Report:
    """Prints what is measured as it comes, and keeps the file complete up to there."""

    def __init__(self, model: str):
        is_gpu = torch.cuda.is_available()
        device = torch.cuda.get_device_name() if is_gpu else f"{platform.machine()}, {os.cpu_count()} CPUs"
        self._result: dict[str, Any] = {"model": model, "device": device, "torch": torch.__version__}
        self._result |= {"ray": ray.__version__, "rows": []}
        print(f"{model}, {device}, torch {torch.__version__}, Ray {ray.__version__}, {IMAGE_SIDE} px JPEGs")
        print("  ".join(f"{column:>10}" for column in COLUMNS), flush=True)

    def row(self, row: dict[str, Any], parts_ms: dict[str, float]) -> None:
        cells = [f"{row[column]:.2f}" if isinstance(row[column], float) else str(row[column]) for column in COLUMNS]
        print("  ".join(f"{cell:>10}" for cell in cells))
        if parts_ms:
            print(f"{'medians, ms:':>24}", ", ".join(f"{name} {value:.1f}" for name, value in parts_ms.items()))
        self._result["rows"].append({**row, "parts ms": parts_ms})
        self._write()

    def fact(self, name: str, value: float) -> None:
        print(f"{name}: {value:.2f}")
        self._result[name] = value
        self._write()

    def _write(self) -> None:
        sys.stdout.flush()
        (ROOT / "benchmarks/serve.json").write_text(json.dumps(self._result, indent=2) + "\n")


def _measure(
    folder: Path, config: dict[str, Any], images: list[bytes], arguments: argparse.Namespace, report: Report
) -> None:
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    # The ingress and two replicas fit in.
    with cluster(folder, num_cpus=max(4, 1 + 2 * num_threads(config))), ExitStack() as stack:
        ways: dict[str, TakeTurn] = {}
        for replicas in arguments.replicas:
            start_s = time.perf_counter()
            deploy(folder, config, replicas)
            wait_ready(url)
            report.fact(f"ready with {replicas} replicas, s", time.perf_counter() - start_s)
            ways = ways or _ways(config, url, images, arguments.ways, stack)
            for clients in arguments.clients:
                _compare(ways, replicas, clients, arguments.seconds, report)
        ways.clear()  # the model that was called directly
        gc.collect()
        torch.cuda.empty_cache()
        if "scaling" in arguments.ways:
            report.fact("time 1 > 2 replicas, s", time_to_second_replica(folder, config, url, images))


def _ways(
    config: dict[str, Any], url: str, images: list[bytes], names: list[str], stack: ExitStack
) -> dict[str, TakeTurn]:
    ways: dict[str, TakeTurn] = {}
    if "direct" in names:
        ways["direct"] = direct(config, images)
    if "http" in names:
        ways["http"] = partial(over_http, url, images)
    if "bare" in names:
        ways["bare"] = partial(over_http, stack.enter_context(bare_server(config)), images)
    return ways


def _compare(ways: dict[str, TakeTurn], replicas: int, clients: int, seconds: float, report: Report) -> None:
    """Has the ways take turns, and tells what each of them did, and how HTTP stands to the others."""
    turns: dict[str, list[Turn]] = {way: [] for way in ways}
    for _ in range(NUM_TURNS):
        for way, take_turn in ways.items():
            turns[way].append(take_turn(clients, seconds / NUM_TURNS))
    rows = {way: _row(way, replicas, clients, turns[way]) for way in ways}
    for way in ways:
        report.row(rows[way], _parts(turns[way]))
    for other in ways.keys() - {"http"} if "http" in ways else ():
        added_ms = rows["http"]["p50 ms"] - rows[other]["p50 ms"]
        report.fact(f"http - {other} at {clients}, replicas {replicas}, p50 ms", added_ms)
        share = rows["http"]["images/s"] / rows[other]["images/s"]
        report.fact(f"http / {other} at {clients}, replicas {replicas}, images/s", share)


def _row(way: str, replicas: int, clients: int, turns: list[Turn]) -> dict[str, Any]:
    latencies_s = [latency_s for turn in turns for latency_s in turn.latencies_s]
    p50, p95, p99 = 1000 * np.percentile(latencies_s, [50, 95, 99]) if latencies_s else [float("nan")] * 3
    return {
        "way": way,
        "replicas": replicas if way == "http" else 1,
        "clients": clients,
        "p50 ms": float(p50),
        "p95 ms": float(p95),
        "p99 ms": float(p99),
        "images/s": (len(latencies_s) or float("nan")) / sum(turn.seconds for turn in turns),  # NaN: too short a turn
        "mean batch": float(np.mean([turn.mean_batch for turn in turns])),
        "refused": sum(turn.refused for turn in turns),
    }


def _parts(turns: list[Turn]) -> dict[str, float]:
    names = dict.fromkeys(name for turn in turns for name in turn.parts_ms)
    return {name: float(np.median(np.concatenate([turn.parts_ms.get(name, []) for turn in turns]))) for name in names}


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


if __name__ == "__main__":
    main()
