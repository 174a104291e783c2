"""Worker processes of a test: one function, once per rank, in one process group."""

import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context
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

TINY = [  # one layer of each kind
    "jobs/configs/demo.yaml",
    "model.architecture.vision_config.num_hidden_layers=1",
    "model.architecture.llm_config.num_hidden_layers=1",
    "model.architecture.grounding_config.image_size=64",
    "model.architecture.grounding_config.trunk.stages=[1, 1, 2, 1]",
    "model.architecture.grounding_config.trunk.global_att_blocks=[3]",
    "precision=fp32",
]


def run_ranks(run: Callable[[Path], Any], num_workers: int, folder: Path):
    """What `run(folder)` returns on rank 0; fails where a rank fails. `run` is a function of a test's file."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.train.preloaded"])
    arguments = [(run, rank, num_workers, port, folder) for rank in range(num_workers)]
    workers = [context.Process(target=_work, args=each) for each in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=500)
    statuses = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    logs = [f"rank {rank}:\n{(folder / f'{rank}.log').read_text()[-2000:]}" for rank in range(num_workers)]
    assert statuses == [0] * num_workers, f"exit statuses {statuses}\n" + "\n".join(logs)
    return torch.load(folder / "results.pt", weights_only=True)


def _work(run: Callable[[Path], Any], rank: int, num_workers: int, port: int, folder: Path) -> None:
    log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(num_workers),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = run(folder)
    if rank == 0:
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
