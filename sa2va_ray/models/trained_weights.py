"""A checkpoint's weights on this machine, and how they come back into a model."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import MANIFEST, digest, verify_files
from sa2va_ray.models.build import PRECISIONS, build_model, weights_sha256
from sa2va_ray.models.checkpoint import (
    CONFIG_FILE,
    MODEL,
    OPTIMIZER,
    STATE_FILE,
    TrainState,
    parse_settings,
    parse_state,
    read_checkpoint_manifest,
    shard_files,
)
from sa2va_ray.models.config import ModelConfig
from sa2va_ray.models.lora import PeftModel, make_trainable
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor


@dataclass(frozen=True)
class LocalCheckpoint:
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
def open_checkpoint(uri: str) -> Iterator[LocalCheckpoint]:
    """Checks a checkpoint hash by hash, all but its optimizer. A local one is used where it lies, a remote one is
    fetched and gone afterwards.

    Raises:
        DamagedError: an incomplete or damaged checkpoint.
    """
    manifest = read_checkpoint_manifest(uri)
    names = [name for name in manifest["files"] if not name.startswith(f"{OPTIMIZER}-")]
    with storage.local_copy(uri, [*names, MANIFEST]) as local:
        verify_files(local, manifest, names)
        yield read_local_checkpoint(local, uri)


def read_local_checkpoint(folder: Path, uri: str, model_config: ModelConfig | None = None) -> LocalCheckpoint:
    """A local checkpoint that `open_checkpoint` has checked.

    Args:
        model_config: in place of the checkpoint's own, where its base has been fetched to another place.
    """
    settings = parse_settings((folder / CONFIG_FILE).read_bytes(), uri)
    return LocalCheckpoint(
        uri=uri,
        folder=folder,
        state=parse_state((folder / STATE_FILE).read_bytes(), uri),
        settings=settings,
        model_config=model_config or ModelConfig.parse(settings["model"]),
        sha256=digest(json.loads((folder / MANIFEST).read_text())),
    )


def build_base(checkpoint: LocalCheckpoint) -> tuple[Sa2VAModel, Sa2VAProcessor]:
    """Builds the model that the training started from, in the precision of that training, on the CPU.

    Raises:
        UserError: its weights are not those that the training started from.
    """
    model, processor = build_model(checkpoint.model_config, PRECISIONS[checkpoint.state.precision])
    expected, base_sha256 = checkpoint.state.base_sha256, weights_sha256(model.state_dict())
    if base_sha256 != expected:
        raise UserError(
            f"{checkpoint.uri} was trained on a base with SHA-256 {expected[:12]}, this machine builds "
            f"{base_sha256[:12]}. Use the versions of torch and tokenizers that the run used."
        )
    return model, processor


def apply_trained(model: Sa2VAModel, processor: Sa2VAProcessor, checkpoint: LocalCheckpoint) -> PeftModel:
    """Widens a base to float32, adds the adapters and puts the trained tensors in; nothing is merged.

    Raises:
        UserError: tensors that do not fit.
    """
    peft_model = make_trainable(model.float(), processor, checkpoint.model_config.trainable)
    load_trained_tensors(model, load_tensors(checkpoint.folder), checkpoint.uri)
    return peft_model


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """All trained tensors of a local copy of a checkpoint, float32 on the CPU."""
    return {name: tensor for file in shard_files(folder, MODEL) for name, tensor in load_file(file).items()}


def load_trained_tensors(model: nn.Module, tensors: Mapping[str, Tensor], uri: str) -> None:
    """Loads a checkpoint's tensors into the trained parameters of a model; frozen ones stay as they are.

    Raises:
        UserError: the tensors are not, by name and shape, exactly the trained parameters.
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
