"""Runs a check in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parents[3]


class ChildFailed(Exception):
    """A process has failed; the message is the last line that it wrote."""


def run_module(module: str, *arguments: str) -> None:
    """Runs a module in a new Python that sees no network and has an empty cache for models' code.

    Raises:
        ChildFailed: it failed.
    """
    with tempfile.TemporaryDirectory() as cache:
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": path, "HF_MODULES_CACHE": cache, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
    if done.returncode < 0:
        raise ChildFailed(f"killed by signal {-done.returncode}; 9 is what a machine without free memory sends")
    if done.returncode:
        raise ChildFailed((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
