"""The checkpoint folder: what it holds, and how its weights come back into a model.

`model-*.safetensors` (trained tensors, float32), `optimizer-*.safetensors` (their AdamW moments, named
`exp_avg.NAME`), both dealt over as many files as ranks wrote them; `train_state.json`, `config.yaml` (resolved), and
`manifest.json`, written last. Frozen weights are not in it: they are built from the config, and `base_sha256` proves
that they are the same.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors.torch import load_file
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.config import Config, UserError
from sa2va_ray.manifest import MANIFEST, digest, read_manifest, verify_files
from sa2va_ray.models.build import PRECISIONS, ModelConfig, build_model, weights_sha256
from sa2va_ray.models.lora import PeftModel, make_trainable, merge_adapters
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
        UserError: an incomplete or damaged checkpoint.
    """
    manifest = read_manifest(uri, what="checkpoint")
    names = [name for name in manifest["files"] if not name.startswith(f"{OPTIMIZER}-")]
    with ExitStack() as stack:
        if uri.startswith("s3://"):
            local = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="checkpoint-")))
            storage.download_files(uri, [*names, MANIFEST], local)
        else:
            local = Path(storage.resolve(uri)[1])
        verify_files(local, {"files": {name: manifest["files"][name] for name in names}})
        yield read_checkpoint(local, uri)


def read_checkpoint(folder: Path, uri: str, model_config: ModelConfig | None = None) -> Checkpoint:
    """A local checkpoint that `open_checkpoint` has checked.

    Args:
        model_config: in place of the checkpoint's own, where its base has been fetched to another place.
    """
    settings = yaml.safe_load((folder / CONFIG_FILE).read_text())
    return Checkpoint(
        uri=uri,
        folder=folder,
        state=TrainState.model_validate_json((folder / STATE_FILE).read_text()),
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
    tensors = {name: tensor for file in checkpoint.files for name, tensor in load_file(file).items()}
    _put_in(model, tensors, checkpoint.uri)
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


def _put_in(model: Sa2VAModel, tensors: dict[str, Tensor], uri: str) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if trained != tensors.keys():
        missing, unknown = sorted(trained - tensors.keys()), sorted(tensors.keys() - trained)
        raise UserError(
            f"{uri} does not fit its own config: {len(missing)} trained tensors are missing {missing[:3]}, "
            f"{len(unknown)} are unknown {unknown[:3]}. The checkpoint is of another version of sa2va_ray."
        )
    model.load_state_dict(tensors, strict=False)  # what is not in `tensors` is frozen, and checked by its hash
