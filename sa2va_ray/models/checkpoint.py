"""The checkpoint folder: what it holds, and how it is found and checked. Its weights: see `trained_weights.py`.

`model-*.safetensors` (trained tensors, float32), `optimizer-*.safetensors` (their AdamW moments, named
`exp_avg.NAME`), both dealt over as many files as ranks wrote them; `train_state.json`, `config.yaml` (resolved), and
`manifest.json`, written last. Frozen weights are not in it: they are built from the config, and `base_sha256` proves
that they are the same.

What the manifest does not name is not of the checkpoint, and is never read: a save that was cut off may have left it.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, ValidationError

from sa2va_ray import storage
from sa2va_ray.config import Config, UserError
from sa2va_ray.manifest import MANIFEST, DamagedError, parse_manifest, read_manifest, verify_files
from sa2va_ray.telemetry import LOGGER

T = TypeVar("T")

LEAST_SEG_SHARE = 0.5
"""Of the objects on the images, the least that a model has to answer with a [SEG], or it has not learnt to."""

_STEP = re.compile(r"step_([0-9]{8}|[1-9][0-9]{8,})")
MODEL, OPTIMIZER, STATE_FILE, CONFIG_FILE = "model", "optimizer", "train_state.json", "config.yaml"


class TrainState(Config):
    """Where a run stood, and what it was made from."""

    model_config = ConfigDict(allow_inf_nan=True)  # a loss may be none

    step: int
    """Optimizer steps done."""
    num_steps: int
    """Steps of the whole run."""
    epoch: int
    step_in_epoch: int
    """Steps of the epoch that are done; the next is the epoch's step of this number, from 0."""
    missing_in_epoch: int
    """Samples of the epoch so far that could not be used."""
    samples_seen: int
    """Samples trained on, over all ranks, since the start of the run."""
    skipped_samples: int
    """Samples left out since the start of the run because the loss of their micro step was not finite."""
    bad_ids: list[str] = []
    """Ids of the left-out samples whose own loss was not finite."""
    num_workers: int
    """Number of ranks that wrote the checkpoint."""
    seed: int
    precision: Literal["bf16", "fp32"]
    """Precision in which the base was built; `base_sha256` is of its weights in that precision."""
    metrics: dict[str, float]
    base_sha256: str
    data_sha256: str
    git_commit: str


def find_checkpoint(uri: str) -> str:
    """The checkpoint at `uri`: the folder itself, or the newest sound one in a run's folder. Damaged ones are named in
    the log and passed over.

    Raises:
        UserError: there is none.
    """
    if any(storage.exists(storage.join(uri, name)) for name in (STATE_FILE, MANIFEST)):
        return uri
    newest = newest_checkpoint(uri, read_verified_checkpoint)
    if newest is None and not storage.list_files(uri):
        raise UserError(f"There is nothing at {uri}. Give the path of the run or checkpoint that `jobs.train` printed.")
    if newest is None:
        raise UserError(
            f"{uri} is neither a checkpoint (a folder with {STATE_FILE} and {MANIFEST}) nor a run's folder with a "
            f"sound one: {len(list_checkpoints(uri))} damaged ones are in it. Give the path that `jobs.train` printed."
        )
    return newest.uri


def step_folder(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step_{step:08d}"


def list_step_folders(run_uri: str) -> list[str]:
    """Folders of a run for checkpoints, whole ones and others, oldest first; not those of other names, such as people's
    copies of a checkpoint."""
    names = [name for name in storage.list_folders(run_uri) if _STEP.fullmatch(name)]
    return [storage.join(run_uri, name) for name in sorted(names, key=lambda name: (len(name), name))]


def list_checkpoints(run_uri: str) -> list[str]:
    """Those of `list_step_folders` that have a manifest; the manifests are not read."""
    return [uri for uri in list_step_folders(run_uri) if storage.exists(storage.join(uri, MANIFEST))]


def sound_checkpoints(run_uri: str, read: Callable[[str], T]) -> Iterator[T]:
    """Reads the checkpoints of a run that are not damaged, the newest first.

    Args:
        read: `read_stored_checkpoint` or a stricter reader. Checkpoints for which it raises `DamagedError` are named in
            the log and passed over; a store that does not answer ends the search, since it says nothing of them.
    """
    for uri in reversed(list_checkpoints(run_uri)):
        try:
            found = read(uri)
        except DamagedError as error:
            LOGGER.warning("checkpoint %s is passed over: %s", uri, error)
        else:
            yield found


def newest_checkpoint(run_uri: str, read: Callable[[str], T]) -> T | None:
    """The first of `sound_checkpoints`; None where there is none."""
    return next(sound_checkpoints(run_uri, read), None)


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint where it is stored, known by its small files; no weights.

    Attributes:
        settings: config.yaml.
        manifest: as `read_manifest` gives it.
    """

    uri: str
    state: TrainState
    settings: dict[str, Any]
    manifest: dict[str, Any]


def read_stored_checkpoint(uri: str) -> StoredCheckpoint:
    """Reads and checks a checkpoint's manifest, state and config, and that all its files have their size.

    Raises:
        DamagedError: what is not as it was written, or not there any more.
        UserError: a checkpoint of another version of sa2va_ray.
    """
    manifest = read_checkpoint_manifest(uri)
    verify_files(uri, manifest, [STATE_FILE, CONFIG_FILE])
    try:
        state, settings = (storage.read_bytes(storage.join(uri, name)) for name in (STATE_FILE, CONFIG_FILE))
    except FileNotFoundError:
        raise DamagedError(f"{uri} has just been deleted, as runs at work do with old ones.") from None
    saved = StoredCheckpoint(uri, parse_state(state, uri), parse_settings(settings, uri), manifest)
    name = uri.rstrip("/").rpartition("/")[2]
    if _STEP.fullmatch(name) and name != step_folder(saved.state.step):
        raise DamagedError(
            f"{uri} holds step {saved.state.step}: it was copied or renamed. Call it {step_folder(saved.state.step)}, "
            "or, to keep a copy of yours, anything that is not step_ and a number."
        )
    return saved


def read_verified_checkpoint(uri: str) -> StoredCheckpoint:
    """Like `read_stored_checkpoint`; the content of every file is checked against its hash too."""
    saved = read_stored_checkpoint(uri)
    verify_files(uri, saved.manifest)
    return saved


def is_silent(metrics: Mapping[str, float]) -> bool:
    """Whether, by its validation, a model says of less than half of what is on the images that it is there, while there
    are images without the object. These it has all right, so that its scores may be above those of one that has
    learnt something."""
    return "val/false_alarm_share" in metrics and metrics["val/seg_share"] < LEAST_SEG_SHARE


def ranked_checkpoints(found: Iterable[StoredCheckpoint], metric: str) -> list[StoredCheckpoint]:
    """Those that have the metric, the best first: the highest `metric`, and of several with the score of one validation
    the one that was saved soonest after it. Silent ones (`is_silent`) come last."""

    def rank(saved: StoredCheckpoint) -> tuple[bool, float, float, int]:
        state = saved.state
        age = state.metrics.get("val/step", state.step) - state.step
        return not is_silent(state.metrics), state.metrics[metric], age, state.step

    scored = [saved for saved in found if math.isfinite(saved.state.metrics.get(metric, math.nan))]
    return sorted(scored, key=rank, reverse=True)


def shard_files(folder: Path, kind: str) -> list[Path]:
    """The files of `MODEL` or `OPTIMIZER` in a local copy of a checkpoint: those that its manifest names."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    return [folder / name for name in _shards(manifest, kind)]


def _shards(manifest: dict[str, Any], kind: str) -> list[str]:
    return sorted(name for name in manifest["files"] if name.startswith(f"{kind}-") and name.endswith(".safetensors"))


def read_checkpoint_manifest(uri: str) -> dict[str, Any]:
    manifest = read_manifest(uri, what="checkpoint")
    absent = [name for name in (STATE_FILE, CONFIG_FILE) if name not in manifest["files"]]
    if absent or not _shards(manifest, MODEL):
        missing = ", ".join(absent) or f"{MODEL}-*.safetensors"
        raise DamagedError(f"{uri} is not a complete checkpoint: its {MANIFEST} does not name {missing}.")
    return manifest


def parse_state(data: bytes, uri: str) -> TrainState:
    """Parses a state file whose hash is right.

    Raises:
        DamagedError: it was no JSON when its hash was taken.
        UserError: another version of sa2va_ray wrote it.
    """
    try:
        return TrainState.model_validate_json(data)
    except ValidationError as error:
        if any(each["type"] == "json_invalid" for each in error.errors()):
            raise DamagedError(f"{uri} is damaged: its {STATE_FILE} of {len(data)} bytes is no JSON.") from None
        keys = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise UserError(
            f"{uri} is a checkpoint of another version of sa2va_ray: {keys} in its {STATE_FILE} do not fit this one."
        ) from None


def parse_settings(data: bytes, uri: str) -> dict[str, Any]:
    """Parses an intact config file. Raises `DamagedError` where it is no config of a run."""
    try:
        settings = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none is a ValueError
        raise DamagedError(f"{uri} is damaged: its {CONFIG_FILE} of {len(data)} bytes is no YAML.") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise DamagedError(f"{uri} is damaged: its {CONFIG_FILE} of {len(data)} bytes has no settings of a `model`.")
    return settings
