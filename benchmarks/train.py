"""Training speed, and the time that goes to data and checkpoints, from what the runs themselves report.

    python -m benchmarks.train                                  the demo's tiny model on CPUs, 1 and 2 workers
    python -m benchmarks.train --size 8b --workers 1 --data D   random weights of full size on GPUs, prepared data in D

Each run is `jobs.train` as users start it, on a Ray cluster and (without --data) an S3 store of its own. Prints a table
of medians over the steps after the first ten, and writes benchmarks/train.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported

import ray
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.predict import SIZES
from sa2va_ray import storage
from sa2va_ray.demo.stack import Stack
from sa2va_ray.demo.synthetic import write_synthetic_dataset
from sa2va_ray.manifest import read_manifest
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.run import prepare
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.trainer import train

ROOT = Path(__file__).parent.parent
WARM_UP_STEPS = 10
SAVE_EVERY_STEPS = 20  # far more often than a real run, so that a short one shows what a checkpoint costs
COLUMNS = {
    "samples/s": "throughput/samples_per_s",
    "tokens/s": "throughput/tokens_per_s",
    "MFU": "throughput/mfu",
    "peak GiB": "memory/peak_gib",
    "data wait": "time/data_wait_share",
    "checkpoints": "time/checkpoint_share",
}
FULL_SIZE = {"architecture": SIZES["8b"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "8b"], default="tiny")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--data", help="prepared data set; without it a synthetic one is made")
    parser.add_argument("settings", nargs="*", help="further key=value of jobs.train")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _on_stack(arguments, folder) if arguments.data is None else _on_machine(arguments, folder)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    facts = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "ray": ray.__version__}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    (ROOT / "benchmarks/train.json").write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")


def _on_stack(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """On a cluster and a store of its own."""
    with Stack(folder / "stack") as stack:
        stack.start_store("bench")
        stack.start_ray(num_cpus=4)
        with stack.applied_env():
            ray.init(address=stack.ray_address)
            write_synthetic_dataset(folder / "source", num_patients=12, frames_per_patient=4)
            prepare(PrepareConfig(source=str(folder / "source"), out="s3://bench/data"))
            rows = [_measure(arguments, workers, "s3://bench/data", "s3://bench/runs") for workers in arguments.workers]
            ray.shutdown()
    return rows


def _on_machine(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    ray.init()
    return [_measure(arguments, workers, arguments.data, str(folder / "runs")) for workers in arguments.workers]


def _measure(arguments: argparse.Namespace, workers: int, data_uri: str, runs_uri: str) -> dict[str, Any]:
    settings = [str(ROOT / "jobs/configs/demo.yaml")]
    if arguments.size == "8b":
        settings = ["use_gpu=true", "global_batch_size=8", "micro_batch_size=1", f"model={json.dumps(FULL_SIZE)}"]
    settings += [f"name={arguments.size}-{workers}", f"num_workers={workers}", f"data_uri={data_uri}"]
    settings += [f"runs_uri={runs_uri}", "log_every_steps=1", f"save_every_steps={SAVE_EVERY_STEPS}"]
    settings += ["validation.every_steps=0", *arguments.settings]
    config = TrainConfig.load(settings)
    num_samples = read_manifest(data_uri)["counts"]["train"]["samples"]
    repeats = -(-arguments.steps * config.global_batch_size // num_samples)
    train(config.model_copy(update={"repeats": repeats}))
    measured = _read(f"{runs_uri}/{config.name}")
    return {"size": arguments.size, "workers": workers, "settings": " ".join(arguments.settings), **measured}


def _read(run_uri: str) -> dict[str, float]:
    """Medians over steps; of what is counted since the start (peak, checkpoints) the last value."""
    with tempfile.TemporaryDirectory() as folder:
        storage.download_folder(f"{run_uri}/tensorboard", Path(folder) / "tensorboard")
        events = EventAccumulator(str(Path(folder) / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found = {name: tag for name, tag in COLUMNS.items() if tag in events.Tags()["scalars"]}
    values = {name: [event.value for event in events.Scalars(tag)] for name, tag in found.items()}
    totals = ("peak GiB", "checkpoints")
    return {
        name: round(each[-1] if name in totals else statistics.median(each[WARM_UP_STEPS:]), 4)
        for name, each in values.items()
    }


if __name__ == "__main__":
    main()
