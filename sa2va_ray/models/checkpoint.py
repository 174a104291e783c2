"""The checkpoint folder: what it holds, and how its weights come back into a model.

`model-*.safetensors` (trained tensors, float32), `optimizer-*.safetensors` (their AdamW moments, named
`exp_avg.NAME`), both dealt over as many files as ranks wrote them; `train_state.json`, `config.yaml` (resolved), and
`manifest.json`, written last. Frozen weights are not in it: they are built from the config, and `base_sha256` proves
that they are the same.
"""

import json
import tempfile
from pathlib import Path
from typing import Literal

import yaml
from safetensors.torch import load_file
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.config import Config, UserError
from sa2va_ray.manifest import MANIFEST, digest, read_manifest, verify_files
from sa2va_ray.models.build import PRECISIONS, ModelConfig, build_model, weights_sha256
from sa2va_ray.models.lora import make_trainable, merge_adapters
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor

MODEL, OPTIMIZER, STATE_FILE, CONFIG_FILE = "model", "optimizer", "train_state.json", "config.yaml"


class TrainState(Config):
    """Where a run stood, and what it was made from."""

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
    """The checkpoint at `uri`: the folder itself, or the newest complete one in a run's folder.

    Raises:
        UserError: there is none.
    """
    if storage.exists(storage.join(uri, STATE_FILE)):
        return uri
    complete = list_checkpoints(uri)
    if not complete:
        raise UserError(
            f"{uri} is neither a checkpoint (a folder with {STATE_FILE} and {MANIFEST}) nor a run's folder with a "
            "complete one. Give the path that `jobs.train` printed."
        )
    return complete[-1]


def list_checkpoints(run_uri: str) -> list[str]:
    """Folders of a run that have a manifest, oldest first."""
    folders = [storage.join(run_uri, name) for name in storage.list_folders(run_uri)]
    return sorted(f for f in folders if all(storage.exists(storage.join(f, name)) for name in (STATE_FILE, MANIFEST)))


def read_state(uri: str) -> TrainState:
    return TrainState.model_validate_json(storage.read_bytes(storage.join(uri, STATE_FILE)))


def shard_files(folder: Path, kind: str) -> list[Path]:
    """The files of `MODEL` or `OPTIMIZER` in a local copy of a checkpoint."""
    return sorted(folder.glob(f"{kind}-*.safetensors"))


def load_trained_model(uri: str) -> tuple[Sa2VAModel, Sa2VAProcessor, TrainState, str]:
    """Builds the base, puts a checkpoint's trained tensors in and merges the adapters.

    Returns:
        the model in float32 on the CPU, its processor, the training state, the checkpoint's digest.

    Raises:
        UserError: an incomplete or damaged checkpoint; a base that differs from the one trained on; tensors that do
            not fit.
    """
    manifest = read_manifest(uri, what="checkpoint")
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "checkpoint"
        storage.download_folder(uri, local)
        verify_files(local, manifest)
        state = TrainState.model_validate(json.loads((local / STATE_FILE).read_text()))
        config = ModelConfig.parse(yaml.safe_load((local / CONFIG_FILE).read_text())["model"])
        tensors = {name: tensor for file in shard_files(local, MODEL) for name, tensor in load_file(file).items()}
    model, processor = build_model(config, PRECISIONS[state.precision])
    base_sha256 = weights_sha256(model)
    if base_sha256 != state.base_sha256:
        raise UserError(
            f"{uri} was trained on a base with SHA-256 {state.base_sha256[:12]}, this machine builds "
            f"{base_sha256[:12]}. Use the versions of torch and tokenizers that the run used."
        )
    peft_model = make_trainable(model.float(), processor, config.trainable)
    _put_in(model, tensors, uri)
    return merge_adapters(peft_model), processor, state, digest(manifest)


def _put_in(model: Sa2VAModel, tensors: dict[str, Tensor], uri: str) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if trained != tensors.keys():
        missing, unknown = sorted(trained - tensors.keys()), sorted(tensors.keys() - trained)
        raise UserError(
            f"{uri} does not fit its own config: {len(missing)} trained tensors are missing {missing[:3]}, "
            f"{len(unknown)} are unknown {unknown[:3]}. The checkpoint is of another version of sa2va_ray."
        )
    model.load_state_dict(tensors, strict=False)  # what is not in `tensors` is frozen, and checked by its hash
