"""Where a run goes on: its newest valid checkpoint, or the beginning."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
import yaml
from safetensors import safe_open
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import read_manifest, verify_files
from sa2va_ray.models.checkpoint import (
    CONFIG_FILE,
    MODEL,
    OPTIMIZER,
    STATE_FILE,
    TrainState,
    list_checkpoints,
    shard_files,
)
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.step import AgreedError
from sa2va_ray.train.zero_state import WEIGHT

_MUST_MATCH = ("model", "seed", "num_epochs", "repeats", "global_batch_size")
"""Keys on which the order of samples, the learning rate or the weights depend."""


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint in a local folder, whose hashes were checked."""

    state: TrainState
    folder: Path

    def reader(self) -> Callable[[str, str], Tensor]:
        """(name of a parameter, `weight` or a moment) -> the whole tensor, float32 on the CPU, read when asked for."""
        files = [safe_open(file, "pt") for kind in (MODEL, OPTIMIZER) for file in shard_files(self.folder, kind)]
        places = {name: file for file in files for name in file.keys()}  # noqa: SIM118  it is no mapping

        def read(name: str, what: str) -> Tensor:
            key = name if what == WEIGHT else f"{what}.{name}"
            return places[key].get_tensor(key)

        return read


@contextmanager
def find_resume_point(config: TrainConfig, data_sha256: str) -> Iterator[ResumePoint | None]:
    """The newest checkpoint of the run whose content is what its manifest says; damaged ones are named and passed over.
    All ranks get the same one. Its local copy is deleted in the end.

    Raises:
        AgreedError: it is of another data set, or of a config with which it cannot be gone on.
    """
    folder = Path(tempfile.mkdtemp(prefix="resume-"))
    try:
        uri = [_fetch_newest(storage.join(config.runs_uri, config.name), folder) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(uri, src=0)
        if uri[0] is None:
            yield None
            return
        local = folder / "checkpoint"
        if dist.get_rank() != 0:
            _fetch(uri[0], local)
        point = ResumePoint(TrainState.model_validate_json((local / STATE_FILE).read_text()), local)
        _check_match(point, config, data_sha256)
        LOGGER.info("resuming from %s: step %d of %d", uri[0], point.state.step, point.state.num_steps)
        yield point
    finally:
        shutil.rmtree(folder)


def _fetch_newest(run_uri: str, folder: Path) -> str | None:
    for uri in reversed(list_checkpoints(run_uri)):
        try:
            _fetch(uri, folder / "checkpoint")
        except StorageError:
            raise  # it may be sound: to pass over it would throw work away
        except (UserError, FileNotFoundError) as error:
            LOGGER.warning("checkpoint %s is passed over: %s", uri, error)
        else:
            return uri
    return None


def _fetch(uri: str, local: Path) -> None:
    manifest = read_manifest(uri, what="checkpoint")
    storage.download_folder(uri, local)
    verify_files(local, manifest)


def _check_match(point: ResumePoint, config: TrainConfig, data_sha256: str) -> None:
    if point.state.data_sha256 != data_sha256:
        raise AgreedError(
            f"The run's checkpoint was trained on the data set {point.state.data_sha256[:12]}, `data_uri` is "
            f"{data_sha256[:12]} now. Take the data set of the run, or another name=... for a new run."
        )
    saved = yaml.safe_load((point.folder / CONFIG_FILE).read_text())
    now = config.model_dump(mode="json")
    different = [key for key in _MUST_MATCH if saved[key] != now[key]]
    if different:
        raise AgreedError(
            f"The run's checkpoint cannot be gone on with: {', '.join(different)} differ from its config.yaml. "
            "Set them as they were, or take another name=... for a new run."
        )
