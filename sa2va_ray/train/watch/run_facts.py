"""`run.json` in a run's folder: what was run, on what, and each time that it was started."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist

from sa2va_ray import storage
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.checkpoints.changes import SettingChange
from sa2va_ray.train.collectives import gather_objects
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.plan.sizes import ParameterGroup
from sa2va_ray.train.watch.code_version import code_sha256, output_of

FACTS_FILE = "run.json"

_PACKAGES = ("torch", "ray", "deepspeed", "transformers", "peft", "sam2", "numpy", "pyarrow")


def collect_run_facts(
    config: TrainConfig,
    *,
    precision: str,
    commit: str,
    data_sha256: str,
    base_sha256: str,
    parameters: Sequence[ParameterGroup],
    num_steps: int,
    step: int,
    changes: Sequence[SettingChange] = (),
) -> dict[str, Any]:
    """Collects the facts of a start of the run at `step`. Every rank calls it, since each gives its device; all get the
    same.

    Args:
        changes: settings that are others than those of the checkpoint that it goes on from.
    """
    settings = config.model_dump(mode="json")
    attempt = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "num_workers": dist.get_world_size(),
        "devices": gather_objects(torch.cuda.get_device_name() if config.use_gpu else platform.machine()),
        "driver": _driver_version() if config.use_gpu else None,
        "git_commit": commit,
        "code_sha256": code_sha256(),
        "versions": _versions(),
        "config": settings,
        "changes": [asdict(change) for change in changes],
    }
    return {
        "name": config.name,
        "config": settings,
        "precision": precision,
        "seed": config.seed,
        "num_steps": num_steps,
        "parameters": [asdict(group) for group in parameters],
        "data_sha256": data_sha256,
        "base_sha256": base_sha256,
        "attempts": [attempt],
        "warnings": [],
    }


def add_earlier_attempts(run_uri: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The same facts, after the attempts and warnings that the run's folder tells of."""
    earlier = read_run_facts(run_uri)
    return facts | {key: earlier.get(key, []) + facts[key] for key in ("attempts", "warnings")}


def read_run_facts(run_uri: str) -> dict[str, Any]:
    """The facts that lie in a run's folder; empty where none do. Damaged ones are put aside."""
    uri = storage.join(run_uri, FACTS_FILE)
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        return {}
    try:
        facts = json.loads(data)
        if all(isinstance(facts[key], list) for key in ("attempts", "warnings")):
            return facts
    except (ValueError, KeyError, TypeError):
        pass
    storage.write_bytes(f"{uri}.damaged", data)
    LOGGER.warning("%s is damaged: it is begun anew, what it was is in %s.damaged", uri, FACTS_FILE)
    return {}


def write_run_facts(run_uri: str, facts: dict[str, Any]) -> None:
    """Writes `run.json`, whole or not at all."""
    storage.write_bytes(storage.join(run_uri, FACTS_FILE), (json.dumps(facts, indent=2) + "\n").encode())


def _versions() -> dict[str, str | None]:
    installed: dict[str, str | None] = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "cuda": torch.version.cuda, **installed}


def _driver_version() -> str | None:
    answer = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return answer.splitlines()[0] if answer else None
