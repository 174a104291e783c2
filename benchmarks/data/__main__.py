"""The data pipeline against a plain PyTorch DataLoader, in one run; its growth with nodes; its memory.

    python -m benchmarks.data speed     samples/s and time to the first batch: (a) DataLoader over loose files,
                                        (b) the pipeline over Parquet on local disk, (c) over Parquet on S3
    python -m benchmarks.data nodes     the pipeline on one raylet of one CPU, and on more
    python -m benchmarks.data memory    2,000 images through an object store of 512 MiB

All ways decode, augment and preprocess with the same functions, one thread each, on as many workers; images are
synthetic angiograms of 512 px. The ways take turns, and the tables give medians over the rounds, since other work on
the machine disturbs all of them: besides the wall clock there are samples per second of CPU time, which is that of all
processes of a way (Ray's own and the consumer's too), and hardly depends on what else runs. Prints each measurement as
it comes, a table at the end, and writes benchmarks/data_COMMAND.json after each round, for a run that is cut off.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported

import cv2
import ray
import torch
from ray.cluster_utils import Cluster

from benchmarks.data.measure import Measured, measure, watched_memory
from benchmarks.data.samples import ROWS_PER_FILE, draw_samples, write_loose, write_parquet
from benchmarks.data.ways import SIZES, build_plan, build_processor, load_loose, load_stream, pipeline_config
from sa2va_ray import storage
from sa2va_ray.demo.stack import Stack
from sa2va_ray.manifest import MANIFEST

RESULTS = Path(__file__).parents[1]
BUCKET = "benchmark"
NUM_PARTS = 3  # warm-up, what is measured, and as much again
NUM_MEMORY_IMAGES, STORE_MIB, FILL_S = 2000, 512, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["speed", "nodes", "memory"])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="workers of each way")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=240, help="measured in each round, after a tenth as warm-up")
    parser.add_argument("--nodes", nargs="+", type=int, default=[1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="sa2va-benchmark-") as name:
        folder = Path(name)
        samples = draw_samples(folder / "drawn")
        for rows in {"speed": speed, "nodes": nodes, "memory": memory}[arguments.command](arguments, folder, samples):
            save(arguments.command, rows)
    print_table(rows)


Rows = list[dict[str, Any]]
"""Of the table, over the rounds so far."""


def speed(arguments: argparse.Namespace, folder: Path, samples: list[dict[str, Any]]) -> Iterator[Rows]:
    write_loose(folder / "loose", samples)
    local, remote = write_parquet(folder / "parquet", samples, ROWS_PER_FILE), f"s3://{BUCKET}/data"
    ways = {
        "(a) DataLoader, files": partial(load_loose, folder / "loose"),
        "(b) pipeline, disk": partial(load_stream, local),
        "(c) pipeline, S3": partial(load_stream, remote),
    }
    plan = build_plan(ROWS_PER_FILE, repeats=-(-NUM_PARTS * arguments.samples // ROWS_PER_FILE))
    measured: dict[tuple[str, str, str], list[Measured]] = {}
    with Stack(folder / "stack") as stack:
        stack.start_store(BUCKET)
        stack.start_ray(num_cpus=arguments.cores)
        with stack.applied_env(), ray.init(address=stack.ray_address, log_to_driver=False):
            storage.upload_folder(Path(local), remote, last=MANIFEST)
            roots = [found for process in stack.processes if (found := process.find())]
            for number in range(arguments.rounds):
                for size, augmented, way in product(arguments.sizes, ("on", "off"), ways):
                    config, processor = pipeline_config(arguments.cores, augmented == "on"), build_processor(size)
                    result = measure(partial(ways[way], plan, config, processor), arguments.samples, roots)
                    measured.setdefault((size, augmented, way), []).append(result)
                    tell(number, f"{size}, augmentation {augmented}, {way}", result)
                yield [
                    {
                        "size": size,
                        "augmentation": augmented,
                        "way": way,
                        **compare(results, measured[size, augmented, next(iter(ways))], arguments.cores),
                    }
                    for (size, augmented, way), results in measured.items()
                ]


def tell(number: int, way: str, result: Measured) -> None:
    print(
        f"round {number + 1}: {way}: first batch {result.first_batch_s:.1f} s, {result.samples_per_s:.1f} samples/s, "
        f"{result.samples_per_cpu_s:.1f} a CPU second",
        flush=True,
    )


def compare(results: list[Measured], base: list[Measured], cores: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken round by round."""

    def ratio(name: str) -> float:
        return statistics.median(
            getattr(one, name) / getattr(other, name) for one, other in zip(results, base, strict=True)
        )

    return {
        "first batch s": statistics.median(result.first_batch_s for result in results),
        "samples/s/core": statistics.median(result.samples_per_s for result in results) / cores,
        "of (a)": ratio("samples_per_s"),
        "samples/CPU s": statistics.median(result.samples_per_cpu_s for result in results),
        "of (a), CPU": ratio("samples_per_cpu_s"),
        "rounds": [asdict(result) for result in results],
    }


def nodes(arguments: argparse.Namespace, folder: Path, samples: list[dict[str, Any]]) -> Iterator[Rows]:
    """A node is a raylet with one CPU, on which one actor fits; the driver's node has none."""
    uri = write_parquet(folder / "parquet", samples, ROWS_PER_FILE)
    plan = build_plan(ROWS_PER_FILE, repeats=-(-NUM_PARTS * arguments.samples // ROWS_PER_FILE))
    rates: dict[tuple[str, int], list[float]] = {}
    for number in range(arguments.rounds):
        for count in arguments.nodes:
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
            for _ in range(count):
                cluster.add_node(num_cpus=1, object_store_memory=STORE_MIB * 2**20)
            with ray.init(address=cluster.address, log_to_driver=False):
                for size in arguments.sizes:
                    config, processor = pipeline_config(count, augmented=True), build_processor(size)
                    result = measure(partial(load_stream, uri, plan, config, processor), arguments.samples, [])
                    rates.setdefault((size, count), []).append(result.samples_per_s)
                    tell(number, f"{size}, {count} nodes", result)
            cluster.shutdown()
        medians = {key: statistics.median(values) for key, values in rates.items()}
        yield [
            {
                "size": size,
                "nodes of 1 CPU": count,
                "samples/s": medians[size, count],
                "growth": medians[size, count] / medians[size, arguments.nodes[0]],
                "rounds": rates[size, count],
            }
            for size, count in rates
        ]


def memory(arguments: argparse.Namespace, folder: Path, samples: list[dict[str, Any]]) -> Iterator[Rows]:
    """The consumer takes a batch, waits until the pipeline has filled what it may, and takes the rest at once."""
    uri = write_parquet(folder / "parquet", samples, NUM_MEMORY_IMAGES)
    rows: Rows = []
    with Stack(folder / "stack") as stack:
        stack.start_ray(num_cpus=arguments.cores, object_store_mib=STORE_MIB)
        roots = [found for process in stack.processes if (found := process.find())]
        with stack.applied_env(), ray.init(address=stack.ray_address, log_to_driver=False):
            for size in arguments.sizes:
                config, processor = pipeline_config(arguments.cores, augmented=True), build_processor(size)
                with watched_memory(roots) as peaks:
                    batches = load_stream(uri, build_plan(NUM_MEMORY_IMAGES, repeats=1), config, processor)
                    next(batches)
                    time.sleep(FILL_S)
                    count = 1 + sum(1 for _ in batches)
                limits = {"store MiB": STORE_MIB, "object_store_mib": config.object_store_mib}
                rows.append({"size": size, "images": count, **limits, **peaks})
                yield rows


def print_table(rows: Rows) -> None:
    columns = [column for column in rows[0] if column != "rounds"]
    table = [
        columns,
        *[[f"{row[c]:.2f}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows],
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    for line in table:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))


def save(command: str, rows: Rows) -> None:
    file = RESULTS / f"data_{command}.json"
    file.write_text(
        json.dumps({"num_cpus": os.cpu_count(), "load_1min": os.getloadavg()[0], "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
