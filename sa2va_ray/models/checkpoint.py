"""The checkpoint folder: what it holds, and how its weights come back into a model.

`model-*.safetensors` (trained tensors, float32), `optimizer-*.safetensors` (their AdamW moments, named
`exp_avg.NAME`), both dealt over as many files as ranks wrote them; `train_state.json`, `config.yaml` (resolved), and
`manifest.json`, written last. Frozen weights are not in it: they are built from the config, and `base_sha256` proves
that they are the same.

What the manifest does not name is not of the checkpoint, and is never read: a save that was cut off may have left it.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from sa2va_ray import storage
from sa2va_ray.config import Config, UserError
from sa2va_ray.manifest import MANIFEST, DamagedError, digest, parse_manifest, read_manifest, verify_files
from sa2va_ray.models.build import PRECISIONS, ModelConfig, build_model, weights_sha256
from sa2va_ray.models.lora import PeftModel, make_trainable, merge_adapters
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.telemetry import LOGGER

T = TypeVar("T")

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
    """Over all ranks, since the start of the run."""
    skipped_samples: int
    """Left out since the start of the run because their loss was not finite."""
    bad_ids: list[str] = []
    """Those of them whose own loss it was."""
    num_workers: int
    """Ranks that wrote it."""
    seed: int
    precision: Literal["bf16", "fp32"]
    """In which the base was built; its hash is of that."""
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
    newest = newest_sound(uri, read_whole)
    if newest is None:
        raise UserError(
            f"{uri} is neither a checkpoint (a folder with {STATE_FILE} and {MANIFEST}) nor a run's folder with a "
            f"sound one: {len(list_checkpoints(uri))} damaged ones are in it. Give the path that `jobs.train` printed."
        )
    return newest.uri


def list_checkpoints(run_uri: str) -> list[str]:
    """Folders of a run that have a manifest, oldest first. What it says is not looked at."""
    folders = [storage.join(run_uri, name) for name in storage.list_folders(run_uri)]
    return sorted(folder for folder in folders if storage.exists(storage.join(folder, MANIFEST)))


def newest_sound(run_uri: str, read: Callable[[str], T]) -> T | None:
    """What `read` makes of a run's newest checkpoint that it does not find damaged; None where it finds all so. Those
    that it finds damaged are named in the log. A store that does not answer says nothing of a checkpoint, and ends it.
    """
    for uri in reversed(list_checkpoints(run_uri)):
        try:
            return read(uri)
        except DamagedError as error:
            LOGGER.warning("checkpoint %s is passed over: %s", uri, error)
        except FileNotFoundError:
            LOGGER.warning("checkpoint %s is passed over: it has just been deleted", uri)
    return None


@dataclass(frozen=True)
class Saved:
    """A checkpoint in its place, by its small files.

    Attributes:
        settings: config.yaml.
        manifest: as `read_manifest` gives it.
    """

    uri: str
    state: TrainState
    settings: dict[str, Any]
    manifest: dict[str, Any]


def read_saved(uri: str) -> Saved:
    """Reads and checks a checkpoint's manifest, state and config, and that all its files have their size.

    Raises:
        DamagedError: what is not as it was written.
        UserError: a checkpoint of another version of sa2va_ray.
    """
    manifest = _read_manifest(uri)
    verify_files(uri, manifest, [STATE_FILE, CONFIG_FILE])
    state, settings = (storage.read_bytes(storage.join(uri, name)) for name in (STATE_FILE, CONFIG_FILE))
    return Saved(uri, _parse_state(state, uri), _parse_settings(settings, uri), manifest)


def read_whole(uri: str) -> Saved:
    """Like `read_saved`, and every file's content is held against its hash."""
    saved = read_saved(uri)
    verify_files(uri, saved.manifest)
    return saved


def read_state(uri: str) -> TrainState:
    return read_saved(uri).state


def shard_files(folder: Path, kind: str) -> list[Path]:
    """The files of `MODEL` or `OPTIMIZER` in a local copy of a checkpoint: those that its manifest names."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    return [folder / name for name in _shards(manifest, kind)]


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """All trained tensors of a local copy of a checkpoint, float32 on the CPU."""
    return {name: tensor for file in shard_files(folder, MODEL) for name, tensor in load_file(file).items()}


def _shards(manifest: dict[str, Any], kind: str) -> list[str]:
    return sorted(name for name in manifest["files"] if name.startswith(f"{kind}-") and name.endswith(".safetensors"))


def _read_manifest(uri: str) -> dict[str, Any]:
    manifest = read_manifest(uri, what="checkpoint")
    absent = [name for name in (STATE_FILE, CONFIG_FILE) if name not in manifest["files"]]
    if absent or not _shards(manifest, MODEL):
        missing = ", ".join(absent) or f"{MODEL}-*.safetensors"
        raise DamagedError(f"{uri} is not a complete checkpoint: its {MANIFEST} does not name {missing}.")
    return manifest


def _parse_state(data: bytes, uri: str) -> TrainState:
    """Raises `UserError` for a state that is as it was written, and yet is none of this version."""
    try:
        return TrainState.model_validate_json(data)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise UserError(
            f"{uri} is a checkpoint of another version of sa2va_ray: {keys} in its {STATE_FILE} do not fit this one."
        ) from None


def _parse_settings(data: bytes, uri: str) -> dict[str, Any]:
    """Raises `DamagedError` for what is as it was written, and yet no config of a run."""
    try:
        settings = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none is a ValueError
        raise DamagedError(f"{uri} is damaged: its {CONFIG_FILE} of {len(data)} bytes is no YAML.") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise DamagedError(f"{uri} is damaged: its {CONFIG_FILE} of {len(data)} bytes has no settings of a `model`.")
    return settings


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's weights on this machine.

    Attributes:
        uri: what messages call it.
        folder: the files of `MODEL`, state, config and manifest; the optimizer's may be missing.
        settings: config.yaml.
        model_config: that of `settings`, or the same with its base elsewhere.
        sha256: the checkpoint's digest (64 hex characters).
    """

    uri: str
    folder: Path
    state: TrainState
    settings: dict[str, Any]
    model_config: ModelConfig
    sha256: str

    @property
    def files(self) -> list[Path]:
        return shard_files(self.folder, MODEL)


@contextmanager
def open_checkpoint(uri: str) -> Iterator[Checkpoint]:
    """Checks a checkpoint hash by hash, all but its optimizer. A local one is used where it lies, a remote one is
    fetched and gone afterwards.

    Raises:
        DamagedError: an incomplete or damaged checkpoint.
    """
    manifest = _read_manifest(uri)
    names = [name for name in manifest["files"] if not name.startswith(f"{OPTIMIZER}-")]
    with ExitStack() as stack:
        if uri.startswith("s3://"):
            local = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="checkpoint-")))
            storage.download_files(uri, [*names, MANIFEST], local)
        else:
            local = Path(storage.resolve(uri)[1])
        verify_files(local, manifest, names)
        yield read_checkpoint(local, uri)


def read_checkpoint(folder: Path, uri: str, model_config: ModelConfig | None = None) -> Checkpoint:
    """A local checkpoint that `open_checkpoint` has checked.

    Args:
        model_config: in place of the checkpoint's own, where its base has been fetched to another place.
    """
    settings = _parse_settings((folder / CONFIG_FILE).read_bytes(), uri)
    return Checkpoint(
        uri=uri,
        folder=folder,
        state=_parse_state((folder / STATE_FILE).read_bytes(), uri),
        settings=settings,
        model_config=model_config or ModelConfig.parse(settings["model"]),
        sha256=digest(json.loads((folder / MANIFEST).read_text())),
    )


def build_base(checkpoint: Checkpoint) -> tuple[Sa2VAModel, Sa2VAProcessor]:
    """What was trained on, in the precision in which it was, on the CPU.

    Raises:
        UserError: it differs from the one trained on.
    """
    model, processor = build_model(checkpoint.model_config, PRECISIONS[checkpoint.state.precision])
    expected, base_sha256 = checkpoint.state.base_sha256, weights_sha256(model)
    if base_sha256 != expected:
        raise UserError(
            f"{checkpoint.uri} was trained on a base with SHA-256 {expected[:12]}, this machine builds "
            f"{base_sha256[:12]}. Use the versions of torch and tokenizers that the run used."
        )
    return model, processor


def put_trained(model: Sa2VAModel, processor: Sa2VAProcessor, checkpoint: Checkpoint) -> PeftModel:
    """Widens a base to float32, adds the adapters and puts the trained tensors in; nothing is merged.

    Raises:
        UserError: tensors that do not fit.
    """
    peft_model = make_trainable(model.float(), processor, checkpoint.model_config.trainable)
    put_in(model, load_tensors(checkpoint.folder), checkpoint.uri)
    return peft_model


def load_trained_model(uri: str) -> tuple[Sa2VAModel, Sa2VAProcessor, TrainState, str]:
    """Builds the base, puts a checkpoint's trained tensors in and merges the adapters.

    Returns:
        the model in float32 on the CPU, its processor, the training state, the checkpoint's digest.

    Raises:
        UserError: an incomplete or damaged checkpoint; a base that differs from the one trained on; tensors that do
            not fit.
    """
    with open_checkpoint(uri) as checkpoint:
        model, processor = build_base(checkpoint)
        peft_model = put_trained(model, processor, checkpoint)
    return merge_adapters(peft_model), processor, checkpoint.state, checkpoint.sha256


def put_in(model: nn.Module, tensors: Mapping[str, Tensor], uri: str) -> None:
    """Puts a checkpoint's tensors in place of a model's trained ones. What is frozen stays, and is checked by its hash.

    Raises:
        UserError: they are not, by name and shape, all trained tensors and no others.
    """
    trained = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}
    missing, unknown = sorted(trained.keys() - tensors.keys()), sorted(tensors.keys() - trained.keys())
    reshaped = sorted(name for name in trained.keys() & tensors.keys() if trained[name] != tensors[name].shape)
    if missing or unknown or reshaped:
        raise UserError(
            f"{uri} does not fit its own config: {len(missing)} trained tensors are missing {missing[:3]}, "
            f"{len(unknown)} are unknown {unknown[:3]}, {len(reshaped)} have another shape {reshaped[:3]}. The "
            "checkpoint is of another version of sa2va_ray."
        )
    answer = model.load_state_dict(tensors, strict=False)
    assert not answer.unexpected_keys, answer.unexpected_keys
    assert trained.keys().isdisjoint(answer.missing_keys), answer.missing_keys
