"""An exported model with 8-bit weights in place of its own: a folder for GPUs with less memory."""

import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sa2va_ray.config import UserError
from sa2va_ray.export.checks.against_full import agreement, check_against_full
from sa2va_ray.export.checks.checklist import checks_table, raise_for_failed
from sa2va_ray.export.checks.folder import NUM_STAGES as CHECK_STAGES
from sa2va_ray.export.checks.folder import check_folder, weight_facts
from sa2va_ray.export.config import NAME
from sa2va_ray.export.merge import STORED_DTYPE
from sa2va_ray.export.model_files import update_config
from sa2va_ray.export.shards import INDEX, read_tensors, stored_sha256, stored_tensors, write_shards
from sa2va_ray.manifest import digest
from sa2va_ray.models.model_manifest import read_model_manifest, update_model_manifest, write_model_manifest
from sa2va_ray.models.quantisation import (
    QUANTISATION_KEY,
    is_quantised,
    quantisation_config,
    quantise,
    to_stored,
    torchao_version,
)
from sa2va_ray.telemetry import LOGGER, Progress

NUM_STAGES = 1 + 2 * CHECK_STAGES
_CARD = "README.md"
_OF_STORED_WEIGHTS = ("files", "agreement")  # what the full model's manifest says, and is not so of another's weights
_NEEDS, _NEEDS_NOW = "torch, transformers and sam2", "torch, transformers, sam2 and torchao"
_NOTE = """
**Weights of 8 bits**: made from the model `{made_from}` and its weights `{weights}`, whose numbers stand below. The
linear layers of the language model are stored in 8 bits, and loading needs torchao (written with {torchao}).
`sa2va_manifest.json` says how closely it draws what the full model does, on two drawn images (`quantisation`). On your
images, evaluate both.

## Use
"""


def write_quantised(source: Path, folder: Path, name: str | None, max_shard_gib: float, progress: Progress) -> str:
    """Fills an empty folder with the model of `source` in 8 bits, and checks it as any export, and that it draws and
    says what the full model does (`check_against_full`).

    Args:
        source: an exported folder.
        name: of the new model; the full one's and "int8" by default.
        progress: goes on by `NUM_STAGES`.

    Returns:
        the new model's SHA-256.

    Raises:
        UserError: torchao is not installed; a folder of upstream's layout, or of 8 bits already; a check has failed.
    """
    facts = read_model_manifest(source)
    quantisation: dict[str, Any] = {"kind": "int8", "torchao": torchao_version(), "made_from": digest(facts)}
    _check_source(facts)
    full_name = facts["name"]
    full = check_folder(source, progress)
    raise_for_failed(full.checks, f"{full_name} is not quantised: it has not passed its own checks")
    _copy_files(source, folder, facts["files"])
    _write_weights(source, folder, max_shard_gib)
    kept = {key: value for key, value in facts.items() if key not in _OF_STORED_WEIGHTS}
    own = {"name": name or f"{full_name} int8", "weights_sha256": stored_sha256(folder)}
    _change_card(folder, facts, own, quantisation)
    model_sha256 = write_model_manifest(folder, kept | weight_facts(folder) | own | {"quantisation": quantisation})
    progress.step("weights are written")
    result = check_folder(folder, progress)
    checks = [*result.checks, *check_against_full(result.answers, full.answers)]
    LOGGER.info("checks\n%s", checks_table(checks))
    raise_for_failed(checks, f"{full_name} is not quantised, nothing is left behind")
    update_model_manifest(folder, {"quantisation": quantisation | agreement(result.answers, full.answers)})
    return model_sha256


def _check_source(facts: Mapping[str, Any]) -> None:
    if facts.get("quantisation") is not None:
        raise UserError("The model has weights of 8 bits already. Give the full model that it was made from.")
    if facts.get("layout") != "own" or not NAME.fullmatch(str(facts.get("name"))):
        raise UserError(
            f"Only models that jobs.export has written with layout=own can be quantised; the manifest of this one says "
            f"layout {facts.get('layout')!r} and has {'a' if facts.get('name') else 'no'} name."
        )
    if below := [name for name in facts["files"] if "/" in name]:
        raise UserError(
            f"The manifest of the model names {len(below)} files in folders of their own, which no export has."
        )


def _copy_files(source: Path, folder: Path, names: Iterable[str]) -> None:
    """All but weights and manifest."""
    for name in names:
        if name != INDEX and not name.endswith(".safetensors"):
            shutil.copy(source / name, folder / name)
    update_config(folder, {QUANTISATION_KEY: quantisation_config()})


def _change_card(
    folder: Path, full: Mapping[str, Any], own: Mapping[str, Any], quantisation: Mapping[str, Any]
) -> None:
    """Says of the full model's card what is otherwise here: name, hash of the weights, what loading needs."""
    card = (folder / _CARD).read_text() if (folder / _CARD).is_file() else "## Use\n"
    note = _NOTE.lstrip().format(weights=full["weights_sha256"], **quantisation)
    card = card.replace(f"# {full['name']}\n", f"# {own['name']}\n", 1).replace(_NEEDS, _NEEDS_NOW)
    card = card.replace(full["weights_sha256"], own["weights_sha256"]).replace("## Use\n", note, 1)
    (folder / _CARD).write_text(card)


def _write_weights(source: Path, folder: Path, max_shard_gib: float) -> None:
    stored = stored_tensors(source)
    small = [name for name in stored if is_quantised(name)]
    sizes = {
        name: math.prod(tensor.shape) * (1 if is_quantised(name) else STORED_DTYPE.itemsize)
        for name, tensor in stored.items()
    }

    def make(shard: list[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        quantised, plain = {}, {}
        for name, tensor in read_tensors({name: stored[name] for name in shard}):
            if is_quantised(name):
                quantised[name] = quantise(tensor)
            else:
                plain[name] = tensor.contiguous()
        tensors, metadata = to_stored(quantised, small)
        return plain | tensors, metadata

    write_shards(folder, sizes, make, max_shard_gib)
