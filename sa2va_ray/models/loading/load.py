"""The one door for weights: whatever people have, `load_model` makes a Sa2VA of it and says what came from where.

Sources are laid over each other, later ones win: the folder, SAM 2's checkpoint, `initialise_from`, XTuner's `.pth`.
Which tensor comes from which is decided on names and shapes before anything is read; then each parameter is allocated
once, in its final dtype and on its final device, and filled once. The host never holds more than one copy of the
weights and one tensor.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import verify_files
from sa2va_ray.models.loading.config_file import building
from sa2va_ray.models.loading.place import build_empty_model, check_finite_weights, fill_model
from sa2va_ray.models.loading.plan import BASE, INITIAL, SAM2, XTUNER, LoraScale, plan_load
from sa2va_ray.models.loading.report import LoadReport, source_report
from sa2va_ray.models.loading.source_folder import SourceFolder, read_source_folder
from sa2va_ray.models.loading.weight_files import WeightSource, check_no_pointers, open_folder, open_pickle
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, read_model_manifest
from sa2va_ray.models.parts import EMBEDDING_WEIGHT, GROUNDING_PREFIX
from sa2va_ray.models.quantisation import load_quantised, plain_tensors
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor


@dataclass(frozen=True)
class LoadedModel:
    """Attributes:
    model: in evaluation mode.
    manifest: that of an exported folder, checked hash by hash; None for folders that have none.
    """

    model: Sa2VAModel
    processor: Sa2VAProcessor
    report: LoadReport
    manifest: dict[str, Any] | None


def load_model(
    source: str | Path,
    *,
    grounding_config: dict[str, Any] | None = None,
    sam2_checkpoint: str | Path | None = None,
    initialise_from: str | Path | None = None,
    xtuner_checkpoint: str | Path | None = None,
    lora_alpha: float | None = None,
    lora_rank: int | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    may_be_quantised: bool = False,
) -> LoadedModel:
    """Loads Sa2VA from local or remote storage. Local files are used where they lie.

    Args:
        source: a folder: one that we exported or saved, an upstream Sa2VA, or an InternVL3 base ("-hf" or not). A base
            gets Sa2VA's five tokens (their rows: `place.new_rows`) and a fresh [SEG] head.
        grounding_config: sizes of SAM 2 for upstream and base folders, which do not give them; hiera-large by default.
        sam2_checkpoint: SAM 2.0's own `.pt`. A base needs it.
        initialise_from: a Sa2VA folder or `.pth` of any size; what fits a base by name and full shape is taken from it.
        xtuner_checkpoint: a `.pth` of upstream's training or of its convert_to_pth.py, or a DeepSpeed folder of that
            name; laid over the folder it was trained on. Adapters are folded into the weights in float32.
        lora_alpha, lora_rank: of the adapters in `xtuner_checkpoint`, which do not tell their alpha.
        dtype: None keeps the dtype in which the token embedding is stored.
        seed: of what is newly initialised.
        may_be_quantised: whether a folder of 8-bit weights that we exported is allowed: such a model answers, and
            cannot be trained or merged.

    Raises:
        UserError: files that are missing, damaged, quantised or of another family; a tensor that no source has, or
            with numbers that are not finite; a source that does not fit. The report is logged before.
    """
    with ExitStack() as stack:
        location = str(source)
        local = stack.enter_context(storage.local_copy(location))
        check_no_pointers(local, location)
        manifest = _verified_manifest(location, local)
        folder = read_source_folder(local, location, grounding_config, may_be_quantised)
        if folder.kind != "base" and (sam2_checkpoint or initialise_from):
            raise UserError(
                f"{location} is a whole Sa2VA; sam2_checkpoint and initialise_from are for InternVL3 bases."
            )
        if folder.quantised:
            return _load_quantised(local, location, folder, manifest, device, dtype)
        sources = [open_folder(local, BASE, location)]
        for role, uri in ((SAM2, sam2_checkpoint), (INITIAL, initialise_from), (XTUNER, xtuner_checkpoint)):
            if uri is not None:
                sources.append(_open(role, str(uri), stack.enter_context(storage.local_copy(str(uri)))))
        with building(location):
            model = build_empty_model(folder.config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        plan, report = plan_load(expected, sources, folder, LoraScale(lora_alpha, lora_rank))
        embedding = plan[EMBEDDING_WEIGHT].stored
        assert embedding is not None  # it may not be fresh
        fill_model(model, plan, device, dtype or embedding.dtype, seed)
    return LoadedModel(model.eval(), Sa2VAProcessor(folder.config, folder.tokenizer), report, manifest)


def _load_quantised(
    local: Path,
    location: str,
    folder: SourceFolder,
    manifest: dict[str, Any] | None,
    device: str,
    dtype: torch.dtype | None,
) -> LoadedModel:
    open_folder(local, BASE, location)  # names the file that is missing or cut
    model = load_quantised(local, location, device, dtype)
    tensors = plain_tensors(model)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            check_finite_weights(tensor, name, local)
    report = source_report(BASE, location, loaded=tensors)
    return LoadedModel(model, Sa2VAProcessor(folder.config, folder.tokenizer), LoadReport((report,), report), manifest)


def _open(role: str, location: str, path: Path) -> WeightSource:
    check_no_pointers(path, location)
    if (path / "config.json").is_file():
        return open_folder(path, role, location)
    return open_pickle(path, role, location, prefix=GROUNDING_PREFIX if role == SAM2 else "")


def _verified_manifest(location: str, folder: Path) -> dict[str, Any] | None:
    if not (folder / MODEL_MANIFEST).is_file():
        return None
    manifest = read_model_manifest(folder, what=f"exported model ({location})")
    verify_files(folder, manifest)
    return manifest
