"""Memory plan against measured peak, and seconds per micro batch, of a full-size random model on one GPU.

    python -m benchmarks.strategies                                          all of SETTINGS
    python -m benchmarks.strategies --profile FILE strategy=zero2 ...        one, and where the GPU's time goes, to FILE

Each setting is a process of its own, without Ray and data: synthetic images of 512 px, one object each. Prints each row
when it is measured; all of them are written to benchmarks/strategies.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from benchmarks.gpu_profile import record_kernels, report, time_parts
from benchmarks.predict import SIZES, architecture
from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.models.build import build_model
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.parts import IMAGE_ENCODER, LANGUAGE_MODEL, MASK_DECODER, VISION_ENCODER
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.engine.deepspeed import build_engine
from sa2va_ray.train.plan.activations import SampleSize
from sa2va_ray.train.plan.flops import count_flops, device_peak
from sa2va_ray.train.plan.memory import plan_memory
from sa2va_ray.train.plan.sizes import read_model_sizes
from sa2va_ray.train.step import MicroBatch, train_step

ROOT = Path(__file__).parent.parent
GIB = 2**30
_PARTS = (VISION_ENCODER, LANGUAGE_MODEL, IMAGE_ENCODER, MASK_DECODER)
NUM_STEPS, MICRO_BATCHES = 5, 4
WARM_UP_STEPS = 2
SETTINGS = [
    ["strategy=zero3"],
    ["strategy=zero3", "activation_checkpointing=true"],
    ["strategy=zero3", "micro_batch_size=4", "activation_checkpointing=true"],
    ["strategy=zero2"],
    ["strategy=zero2", "micro_batch_size=4", "activation_checkpointing=true"],
    ["strategy=zero2", "compile_layers=true"],
    ["strategy=zero3_offload", "activation_checkpointing=true"],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", *SIZES], default="8b")
    parser.add_argument("--profile", type=Path, help="file for the kernels of one more step")
    parser.add_argument("settings", nargs="*", help="key=value of jobs.train; none: all of SETTINGS")
    arguments = parser.parse_args()
    if arguments.profile and not arguments.settings:
        parser.error("--profile is of one setting: say which, as in --profile FILE strategy=zero2")
    if arguments.settings:
        measured = measure(arguments.settings, arguments.size)
        print(json.dumps(measured.row), flush=True)
        if arguments.profile:
            lines = report(time_parts(measured.step, measured.parts), record_kernels(measured.step), measured.step_s)
            arguments.profile.write_text("\n".join([" ".join(arguments.settings), *lines]) + "\n")
        return
    rows = [_in_a_process(settings, arguments.size) for settings in SETTINGS]
    facts = {"size": arguments.size, "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
    (ROOT / "benchmarks/strategies.json").write_text(json.dumps(facts, indent=2) + "\n")


def _in_a_process(settings: list[str], size: str) -> dict[str, Any]:
    command = [sys.executable, "-m", __spec__.name, "--size", size, *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        row = {"settings": " ".join(settings), "failed": done.stderr.strip().splitlines()[-1]}
    else:
        row = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


class Measured(NamedTuple):
    """Attributes: what is printed of a setting; one more step of it, the seconds that a step takes, and its parts."""

    row: dict[str, Any]
    step: Callable[[], Any]
    step_s: float
    parts: dict[str, tuple[Any, str]]


def measure(settings: list[str], size: str) -> Measured:
    """One setting, in this process. On a machine without a GPU it shows that the settings work, and no more."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _join_process_group(device)
    config = TrainConfig.load(
        [
            *("name=b", "data_uri=none", "runs_uri=none", "num_workers=1", "precision=bf16"),
            *(f"model={json.dumps({'architecture': architecture(size)})}", f"use_gpu={device.type == 'cuda'}"),
            *("global_batch_size=16", "micro_batch_size=1", *settings),
        ]
    )
    with device:
        torch.set_default_dtype(torch.bfloat16)
        model, processor = build_model(config.model)
        torch.set_default_dtype(torch.float32)
        model = model.bfloat16()
        make_trainable(model, processor, config.model.trainable)
    flops = count_flops(model)
    engine = build_engine(model, config, "bf16")
    del model
    batch = _batch(processor, config.samples_of_a_pass)
    _synchronize(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def step() -> dict[str, float]:
        micro_batches = [MicroBatch(batch, seed=each) for each in range(MICRO_BATCHES)]
        losses = train_step(engine, micro_batches, batch, config.loss, learning_rate=1e-5).losses
        _synchronize(device)
        return losses

    seconds = []
    for number in range(NUM_STEPS):
        start_s = time.perf_counter()
        losses = step()
        seconds.append(time.perf_counter() - start_s)
        print(number, seconds[-1], losses["loss"], file=sys.stderr, flush=True)
    step_s = statistics.median(seconds[WARM_UP_STEPS:])
    micro_batch_s = step_s / MICRO_BATCHES
    largest = SampleSize(num_tokens=batch.input_ids.shape[1], num_tiles=int(batch.num_tiles[0]))
    plan = plan_memory(read_model_sizes(config.model, torch.bfloat16), config, size=largest)
    peak = device_peak(device, "bf16")
    measured_bytes = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    row = {
        "settings": " ".join(settings),
        "tokens": largest.num_tokens,
        "first step s": round(seconds[0], 2),
        "second step s": round(seconds[1], 2),
        "micro batch s": round(micro_batch_s, 4),
        "samples/s": round(config.samples_of_a_pass / micro_batch_s, 2),
        "MFU": round(flops.of_batch(batch) / micro_batch_s / peak, 4) if peak else None,
        "planned GiB": round(plan.allocated_bytes / GIB, 1),
        "measured GiB": round(measured_bytes / GIB, 1),
        "loss": round(losses["loss"], 3),
    }
    parts = {f"forward: {part.label}": (engine.module.get_submodule(part.module), "forward") for part in _PARTS}
    return Measured(row, step, step_s, {**parts, "backward": (engine, "backward"), "update": (engine, "step")})


def _join_process_group(device: torch.device) -> None:
    """A group of this process alone."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _batch(processor: Sa2VAProcessor, size: int) -> Batch:
    rows = []
    for seed in range(size):
        random = np.random.default_rng(seed)
        image = Image.fromarray(random.integers(0, 256, (512, 512, 3), dtype=np.uint8))
        tiles = processor.tile_pixels(image)
        turns = [("<image>\nPlease segment the blood vessels.", "Sure, [SEG].")]
        ids, labels = processor.training_ids(turns, len(tiles))
        rows.append(
            {
                "input_ids": np.array(ids),
                "labels": np.array(labels),
                "pixel_values": tiles.numpy(),
                "grounding_pixel_values": processor.grounding_image(image).numpy(),
                "masks": random.random((1, 512, 512)) < 0.1,
                "ignored": np.zeros((0, 512, 512), bool),
                "sample_id": f"synthetic-{seed}",
            }
        )
    return collate(rows)


if __name__ == "__main__":
    main()
