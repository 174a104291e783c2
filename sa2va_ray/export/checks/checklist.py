"""A check that passed or did not, tables of them, and processes of our own in which they are made."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sa2va_ray.config import UserError

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    detail: str


def table(checks: Sequence[Check]) -> str:
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{'ok  ' if c.passed else 'FAIL'}  {c.name.ljust(width)}  {c.detail}" for c in checks)


def changes_table(modules: Mapping[str, Mapping[str, float]]) -> str:
    """How many tensors of each module were trained, have changed, and by how much."""
    rows = [f"{'module'.ljust(20)} tensors trained changed  norm of change  norm of base"]
    for module, row in modules.items():
        counts = " ".join(f"{row[key]:7d}" for key in ("tensors", "trained", "changed"))
        rows.append(f"{module.ljust(20)} {counts}  {row['norm_of_change']:14.6g}  {row['norm_of_base']:12.6g}")
    return "\n".join(rows)


def raise_for_failed(checks: Sequence[Check], what: str) -> None:
    """Raises `UserError` with all checks that failed."""
    failed = [check for check in checks if not check.passed]
    if failed:
        lines = "\n".join(f"  {check.name}: {check.detail}" for check in failed)
        raise UserError(f"{what}: {len(failed)} of {len(checks)} checks failed\n{lines}")


class ChildFailed(Exception):
    """The last line that a process wrote before it failed."""


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
