"""Runs a check in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

_CHILD = "sa2va_ray.export.checks.child"
_ROOT = Path(__file__).parents[3]
_GPU_BYTES_PER_PARAMETER = 6  # float32, and half as much again for what is computed


class ChildFailed(Exception):
    """A process has failed; the message is the last line that it wrote."""


def gpu_has_room(num_parameters: int) -> bool:
    """Whether a GPU of this machine can answer in float32, which takes a CPU minutes for 8B. To be asked once for all
    models whose answers are compared: a GPU also scales pictures in its own way."""
    return torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > _GPU_BYTES_PER_PARAMETER * num_parameters


def run_module(module: str, *arguments: str, on_gpu: bool = False) -> None:
    """Runs the `main` of a module in a new Python that sees no network and has an empty cache for models' code.

    Args:
        on_gpu: leave it the GPUs; without, it sees none.

    Raises:
        ChildFailed: it failed.
    """
    with tempfile.TemporaryDirectory() as cache:
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": path, "HF_MODULES_CACHE": cache, "HF_HUB_OFFLINE": "1"}
        environment |= {} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-m", _CHILD, module, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
    if done.returncode < 0:
        raise ChildFailed(f"killed by signal {-done.returncode}; 9 is what a machine without free memory sends")
    if done.returncode:
        raise ChildFailed((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
