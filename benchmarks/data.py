"""The data pipeline against a plain PyTorch DataLoader, in one run; its growth with nodes; its memory.

    python -m benchmarks.data speed     samples/s and time to the first batch: (a) DataLoader over loose files,
                                        (b) the pipeline over Parquet on local disk, (c) over Parquet on S3
    python -m benchmarks.data nodes     the pipeline on one raylet of one CPU, and on more
    python -m benchmarks.data memory    2,000 images through an object store of 512 MiB

All ways decode, augment and preprocess with the same functions, one thread each, on as many workers; images are
synthetic angiograms of 512 px. The ways take turns, and the tables give medians over the rounds, since other work on
the machine disturbs all of them: besides the wall clock there are samples per second of CPU time, which is that of all
processes of a way (Ray's own and the consumer's too), and hardly depends on what else runs. Prints a table and writes
benchmarks/data_COMMAND.json.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported

import cv2
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from PIL import Image
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.cluster_utils import Cluster
from torch.utils.data import DataLoader, Dataset

from sa2va_ray import storage
from sa2va_ray.data.augment import AugmentConfig
from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import PipelineConfig, preprocess, stream_steps
from sa2va_ray.data.sample import SCHEMA
from sa2va_ray.demo.stack import Stack
from sa2va_ray.demo.synthetic import PHRASE, write_synthetic_dataset
from sa2va_ray.images.masks import mask_to_rle, polygons_to_mask
from sa2va_ray.manifest import MANIFEST, write_manifest
from sa2va_ray.models.sa2va.configuration_sa2va import HIERA_LARGE, Sa2VAConfig
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.models.tokenizer import build_tokenizer

ROOT = Path(__file__).parent.parent
BUCKET = "benchmark"
NUM_DRAWN = 32  # images drawn; a data set repeats them
ROWS_PER_FILE = 256
NUM_PARTS = 3  # warm-up, what is measured, and as much again
NUM_MEMORY_IMAGES, STORE_MIB, FILL_S = 2000, 512, 20
SIZES = {"full": (448, 1024), "tiny": (112, 512)}  # tile, SAM 2's image, in px


@dataclass(frozen=True)
class Measured:
    """`first_batch_s`: from the call to the first batch. `samples_per_cpu_s`: per second of CPU time."""

    first_batch_s: float
    samples_per_s: float
    samples_per_cpu_s: float


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
        rows = {"speed": speed, "nodes": nodes, "memory": memory}[arguments.command](arguments, folder, samples)
    report(arguments.command, rows)


def speed(arguments: argparse.Namespace, folder: Path, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
            for _, size, augmented, way in product(range(arguments.rounds), arguments.sizes, ("on", "off"), ways):
                config, processor = pipeline_config(arguments.cores, augmented == "on"), build_processor(size)
                result = measure(partial(ways[way], plan, config, processor), arguments.samples, roots)
                measured.setdefault((size, augmented, way), []).append(result)
    return [
        {
            "size": size,
            "augmentation": augmented,
            "way": way,
            **compare(results, measured[size, augmented, next(iter(ways))], arguments.cores),
        }
        for (size, augmented, way), results in measured.items()
    ]


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


def nodes(arguments: argparse.Namespace, folder: Path, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A node is a raylet with one CPU, on which one actor fits; the driver's node has none."""
    uri = write_parquet(folder / "parquet", samples, ROWS_PER_FILE)
    plan = build_plan(ROWS_PER_FILE, repeats=-(-NUM_PARTS * arguments.samples // ROWS_PER_FILE))
    rates: dict[tuple[str, int], list[float]] = {}
    for _, count in product(range(arguments.rounds), arguments.nodes):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(count):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_MIB * 2**20)
        with ray.init(address=cluster.address, log_to_driver=False):
            for size in arguments.sizes:
                config, processor = pipeline_config(count, augmented=True), build_processor(size)
                result = measure(partial(load_stream, uri, plan, config, processor), arguments.samples, [])
                rates.setdefault((size, count), []).append(result.samples_per_s)
        cluster.shutdown()
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return [
        {
            "size": size,
            "nodes of 1 CPU": count,
            "samples/s": medians[size, count],
            "growth": medians[size, count] / medians[size, arguments.nodes[0]],
            "rounds": rates[size, count],
        }
        for size, count in rates
    ]


def memory(arguments: argparse.Namespace, folder: Path, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The consumer takes a batch, waits until the pipeline has filled what it may, and takes the rest at once."""
    uri = write_parquet(folder / "parquet", samples, NUM_MEMORY_IMAGES)
    rows = []
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
    return rows


@contextmanager
def watched_memory(roots: list[psutil.Process]) -> Iterator[dict[str, float]]:
    """Gives a dict that holds, at the end of the `with` block, what was most of each, in MiB."""
    peaks: dict[str, float] = {}
    done = threading.Event()
    state = get_state_from_address(ray.get_runtime_context().gcs_address)

    def watch() -> None:
        while not done.wait(0.25):
            stats = get_memory_info_reply(state).store_stats
            usage = [usage for process in descendants(roots) if (usage := actor_memory(process))]
            now = {
                "peak store": stats.object_store_bytes_used,
                "spilled so far": stats.spilled_bytes_total,
                "actor RSS": max((each.rss for each in usage), default=0),
                "actor USS": max((each.uss for each in usage), default=0),  # without what it shares, as the store
            }
            peaks.update({name: max(peaks.get(name, 0.0), value / 2**20) for name, value in now.items()})

    thread = threading.Thread(target=watch)
    thread.start()
    yield peaks
    done.set()
    thread.join()


def actor_memory(process: psutil.Process) -> Any:
    """Memory of a data actor; None for any other process, or one that has ended."""
    with suppress(psutil.Error):
        return process.memory_full_info() if "MapWorker" in " ".join(process.cmdline()) else None


def descendants(roots: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Those of the processes that live, and all that they started."""
    family = set()
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            family |= {root, *root.children(recursive=True)}
    return family


def measure(start: Callable[[], Iterator[Batch]], num_samples: int, roots: Iterable[psutil.Process]) -> Measured:
    """Takes a tenth of the samples as warm-up, measures `num_samples`, and lets the rest be, so that neither the start
    nor the end, where workers run dry, is in the figure."""
    begin_s = time.perf_counter()
    batches = start()
    next(batches)
    first_batch_s = time.perf_counter() - begin_s
    take(batches, num_samples // 10)
    processes = [psutil.Process(), *roots]
    cpu_s, begin_s = cpu_seconds(processes), time.perf_counter()
    take(batches, num_samples)
    wall_s = time.perf_counter() - begin_s
    # Processes of earlier rounds end at any time: what they had used before is in neither sum.
    used_s = sum(seconds - cpu_s.get(process, 0.0) for process, seconds in cpu_seconds(processes).items())
    for _ in batches:
        pass
    return Measured(first_batch_s, num_samples / wall_s, num_samples / used_s)


def take(batches: Iterator[Batch], count: int) -> None:
    for _ in islice(batches, count):
        pass


def cpu_seconds(roots: Iterable[psutil.Process]) -> dict[psutil.Process, float]:
    """CPU time so far of processes and all their descendants that live."""
    seconds = {}
    for process in descendants(roots):
        with suppress(psutil.NoSuchProcess):
            seconds[process] = sum(process.cpu_times()[:2])
    return seconds


def load_stream(uri: str, plan: EpochPlan, config: PipelineConfig, processor: Sa2VAProcessor) -> Iterator[Batch]:
    for step in stream_steps(uri, plan, config, processor):
        yield from filter(None, step)


def load_loose(folder: Path, plan: EpochPlan, config: PipelineConfig, processor: Sa2VAProcessor) -> Iterator[Batch]:
    loader = DataLoader(
        LooseFiles(folder, plan, config, processor),
        batch_size=plan.micro_batch_size,
        num_workers=config.actors_per_rank,
        collate_fn=collate,
        worker_init_fn=lambda _: cv2.setNumThreads(1),
    )
    return iter(loader)


class LooseFiles(Dataset):
    """The places of an epoch, read from a folder of images and label files."""

    def __init__(self, folder: Path, plan: EpochPlan, config: PipelineConfig, processor: Sa2VAProcessor):
        self._images = sorted(folder.glob("*.png"))
        self._samples = plan.samples(np.arange(plan.samples_per_epoch))
        self._config, self._processor = config, processor

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> dict[str, Any]:
        image = self._images[self._samples[position]]
        objects = json.loads(image.with_suffix(".json").read_text())
        sample = {"sample_id": image.stem, "image": image.read_bytes(), "objects": objects}
        return preprocess(sample, self._config, self._processor, np.random.default_rng([0, 0, position]))


def build_plan(num_rows: int, repeats: int) -> EpochPlan:
    """One rank that takes samples one by one."""
    return EpochPlan(num_rows, repeats, 0, 0, global_batch_size=8, micro_batch_size=1, rank=0, world_size=1)


def pipeline_config(workers: int, augmented: bool) -> PipelineConfig:
    return PipelineConfig(actors_per_rank=workers, augment=AugmentConfig() if augmented else AugmentConfig.off())


def build_processor(size: str) -> Sa2VAProcessor:
    tile_size, grounding_size = SIZES[size]
    config = Sa2VAConfig(
        vision_config={"image_size": tile_size},
        max_dynamic_patch=12 if size == "full" else 1,
        grounding_config={**HIERA_LARGE, "image_size": grounding_size},
    )
    return Sa2VAProcessor(config, build_tokenizer())


def draw_samples(folder: Path) -> list[dict[str, Any]]:
    """`NUM_DRAWN` samples as `jobs.prepare` writes them: a grey PNG and a COCO RLE."""
    write_synthetic_dataset(folder, num_patients=NUM_DRAWN // 4, frames_per_patient=4, size=512)
    samples = []
    for item in json.loads((folder / "annotations.json").read_text()):
        png = io.BytesIO()
        Image.open(folder / item["image"]).convert("L").save(png, "PNG")
        polygons = [np.reshape(each["segmentation"][0], (-1, 2)) for each in item["mask"]]
        rle = mask_to_rle(polygons_to_mask(polygons, 512, 512))
        samples.append({"image": png.getvalue(), "objects": [{"phrase": PHRASE, "rle": rle}]})
    return samples


def write_loose(folder: Path, samples: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for row in range(ROWS_PER_FILE):
        sample = samples[row % len(samples)]
        (folder / f"{row:06d}.png").write_bytes(sample["image"])
        (folder / f"{row:06d}.json").write_text(json.dumps(sample["objects"]))


def write_parquet(folder: Path, samples: list[dict[str, Any]], num_rows: int) -> str:
    folder.mkdir()
    rows = [{"sample_id": f"{row:06d}", "split": "train", **samples[row % len(samples)]} for row in range(num_rows)]
    parts = [rows[begin : begin + ROWS_PER_FILE] for begin in range(0, num_rows, ROWS_PER_FILE)]
    names = [f"train-{number:05d}.parquet" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        table = pa.Table.from_pylist(part, schema=SCHEMA)
        pq.write_table(table, folder / name, row_group_size=1, write_statistics=False, use_dictionary=False)
    write_manifest(folder, {"num_rows": {name: len(part) for name, part in zip(names, parts, strict=True)}})
    return str(folder)


def report(command: str, rows: list[dict[str, Any]]) -> None:
    columns = [column for column in rows[0] if column != "rounds"]
    table = [
        columns,
        *[[f"{row[c]:.2f}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows],
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    for line in table:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    file = ROOT / f"benchmarks/data_{command}.json"
    file.write_text(
        json.dumps({"num_cpus": os.cpu_count(), "load_1min": os.getloadavg()[0], "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
