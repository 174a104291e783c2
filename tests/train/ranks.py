"""Worker processes of a test: the test's own file run as a script, once per rank, in one process group."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.models.build import build_model
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.train.config import TrainConfig

ROOT = Path(__file__).parents[2]
TINY = [  # one layer of each kind
    "jobs/configs/demo.yaml",
    "model.architecture.vision_config.num_hidden_layers=1",
    "model.architecture.llm_config.num_hidden_layers=1",
    "model.architecture.grounding_config.image_size=64",
    "model.architecture.grounding_config.trunk.stages=[1, 1, 2, 1]",
    "model.architecture.grounding_config.trunk.global_att_blocks=[3]",
    "precision=fp32",
]


def run_ranks(script: str, num_workers: int, folder: Path):
    """What rank 0 of `python script folder` has left in `folder/results.pt`; fails where a rank fails.

    The script calls `work`, or leaves that file itself.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(num_workers),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(folder)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=(folder / f"{rank}.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(num_workers)
    ]
    statuses = [worker.wait(timeout=500) for worker in workers]
    logs = [f"rank {rank}:\n{(folder / f'{rank}.log').read_text()[-2000:]}" for rank in range(num_workers)]
    assert statuses == [0] * num_workers, f"exit statuses {statuses}\n" + "\n".join(logs)
    return torch.load(folder / "results.pt", weights_only=True)


def work(run: Callable[[Path], Any]) -> None:
    """This process as one of the workers of `run_ranks`, whose result is what `run(folder)` returns on rank 0."""
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    results = run(folder)
    if dist.get_rank() == 0:
        torch.save(results, folder / "results.pt")
    dist.barrier()  # a worker that goes while another listens to it takes that one down
    dist.destroy_process_group()


def build_tiny(config: TrainConfig):
    """(model with its trainable parts, processor), the same on every call."""
    model, processor = build_model(config.model)
    torch.manual_seed(0)  # adapters are random
    make_trainable(model, processor, config.model.trainable)
    return model, processor


def tiny_row(processor, seed: int, answer: str = "Sure, [SEG].", with_image: bool = True) -> dict:
    """A row as the pipeline's `preprocess` gives it, of noise; `answer` has as many [SEG] as there are masks."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    tiles = processor.tile_pixels(image)
    tiles = tiles if with_image else tiles[:0]
    question = "<image>\nPlease segment the vessels." if with_image else "What is a vessel?"
    ids, labels = processor.training_ids([(question, answer)], len(tiles))
    return {
        "input_ids": np.array(ids),
        "labels": np.array(labels),
        "pixel_values": tiles.numpy(),
        "grounding_pixel_values": processor.grounding_image(image).numpy(),
        "masks": random.random((answer.count("[SEG]"), 16, 16)) < 0.2,
        "ignored": np.zeros((0, 16, 16), bool),
        "sample_id": f"sample-{seed}",
    }


def tiny_batch(processor, seed: int) -> Batch:
    return collate([tiny_row(processor, seed)])
