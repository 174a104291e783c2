"""The checks on an exported folder that need nothing else."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_ray.config import UserError
from sa2va_ray.export.checks.checklist import Check
from sa2va_ray.export.checks.child_process import ChildFailed, run_module
from sa2va_ray.export.checks.probe import ProbeAnswers, read_answers
from sa2va_ray.export.merge import STORED_DTYPE
from sa2va_ray.export.model_files import MODEL_FILES
from sa2va_ray.export.shards import stored_sha256, stored_tensors
from sa2va_ray.manifest import verify_files
from sa2va_ray.models.loading.report import some
from sa2va_ray.models.model_manifest import read_model_manifest
from sa2va_ray.models.parts import module_of
from sa2va_ray.telemetry import Progress

_FACTS = (
    "layout",
    "num_parameters",
    "vocabulary",
    "seg_token_id",
    "dtypes",
    "weights_sha256",
    "base_weights_sha256",
    "num_changed_tensors",
)
NUM_STAGES = 3
_QUANTISED_DTYPES = ("int8", "float32")  # whole numbers, and their scales


@dataclass(frozen=True)
class FolderResult:
    """What was found out; `answers` are those of `probe.ask`, empty where the folder did not get so far."""

    checks: list[Check]
    answers: ProbeAnswers


def check_folder(folder: Path, progress: Progress, on_gpu: bool = False) -> FolderResult:
    """All that can be found out from an exported folder alone.

    Args:
        progress: goes on by `NUM_STAGES`.
        on_gpu: see `child_process.gpu_has_room`. Not for 8-bit weights, which a GPU multiplies in another way.

    Raises:
        UserError: it has no manifest, so it is no exported model; one of a version that recorded less.
    """
    manifest = read_model_manifest(folder)
    if absent := [fact for fact in _FACTS if fact not in manifest]:
        raise UserError(
            f"{folder} was exported by sa2va_ray {manifest.get('tool_version')}, whose manifest does not say "
            f"{', '.join(absent)}. Export the checkpoint again."
        )
    checks = [_hashes(folder, manifest), _model_files(manifest)]
    progress.step("the files were read")
    checks += _weights(folder, manifest)
    progress.step("the weights were read")
    with tempfile.TemporaryDirectory() as out:
        try:
            run_module("sa2va_ray.export.checks.fresh_load", str(folder), out, on_gpu=on_gpu)
            failure = None
        except ChildFailed as error:
            failure = str(error)
        progress.step("the folder was loaded in a fresh process")
        facts_file, answers = Path(out) / "facts.json", read_answers(Path(out))
        facts = json.loads(facts_file.read_text()) if facts_file.exists() else None
    if facts is None:
        return FolderResult([*checks, Check("loads in a fresh process", False, str(failure))], answers)
    checks += _facts(facts, manifest)
    return FolderResult([*checks, _masks(answers, failure)], answers)


def weight_facts(folder: Path) -> dict[str, Any]:
    """What a manifest says of stored weights: `dtypes`, the number of tensors by module and dtype."""
    dtypes: dict[str, dict[str, int]] = {}
    for name, stored in stored_tensors(folder).items():
        row = dtypes.setdefault(module_of(name), {})
        dtype = str(stored.dtype).removeprefix("torch.")
        row[dtype] = row.get(dtype, 0) + 1
    return {"dtypes": dtypes}


def _hashes(folder: Path, manifest: Mapping[str, Any]) -> Check:
    try:
        verify_files(folder, dict(manifest))
    except UserError as error:
        return Check("hashes", False, str(error))
    return Check("hashes", True, f"{len(manifest['files'])} files have the content that the manifest names")


def _model_files(manifest: Mapping[str, Any]) -> Check:
    if manifest["layout"] == "upstream":
        return Check("model files", True, "none: upstream's own code is to be put beside")
    missing = [name for name in MODEL_FILES if name not in manifest["files"]]
    return Check("model files", not missing, f"missing: {some(missing)}" if missing else f"all {len(MODEL_FILES)}")


def _weights(folder: Path, manifest: Mapping[str, Any]) -> list[Check]:
    """What can be read off the files without a model. The header tells a dtype that loading would hide."""
    expected = str(STORED_DTYPE).removeprefix("torch.")
    found = weight_facts(folder)["dtypes"]
    allowed = {expected, *(_QUANTISED_DTYPES if "quantisation" in manifest else ())}
    other = {module: row for module, row in found.items() if not row.keys() <= allowed}
    weights = stored_sha256(folder)
    return [
        Check(
            "dtype of stored weights",
            not other and found == manifest["dtypes"],
            _dtypes_told(found, other, allowed, manifest),
        ),
        Check("weights are the manifest's", weights == manifest["weights_sha256"], weights[:12]),
        *_against_base(weights, manifest),
    ]


def _dtypes_told(found: dict, other: dict, allowed: set[str], manifest: Mapping[str, Any]) -> str:
    if other:
        return f"not {', '.join(sorted(allowed))}: {other}"
    told = f"{', '.join(sorted(allowed))} in {len(found)} modules"
    return told if found == manifest["dtypes"] else f"{told}; the manifest says otherwise: it was edited"


def _against_base(weights: str, manifest: Mapping[str, Any]) -> list[Check]:
    if "quantisation" in manifest:  # in another type they are others in any case; the full model has been checked
        return []
    detail = f"{manifest['num_changed_tensors']} tensors changed"
    return [Check("weights are not the base's", weights != manifest["base_weights_sha256"], detail)]


def _facts(facts: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[Check]:
    problems = "; ".join(f"{kind}: {some(names)}" for kind, names in facts["problems"].items())
    count, expected = facts["num_parameters"], manifest["num_parameters"]
    sizes = [facts[key] for key in ("tokenizer_size", "embedding_rows", "head_rows")]
    seg = facts["config_seg_token_id"]
    loaded = {dtype for row in facts["dtypes"].values() for dtype in row}
    not_finite = facts["not_finite"]
    return [
        Check("loads in a fresh process", not problems, problems or f"every tensor, by {facts['code'].split('.')[0]}"),
        Check("parameters", count == expected, f"{count:,}" + ("" if count == expected else f", not {expected}")),
        Check(
            "vocabulary", set(sizes) == {manifest["vocabulary"]}, "tokenizer {}, embedding {}, head {}".format(*sizes)
        ),
        Check("dtype when loaded", loaded == {"bfloat16"}, ", ".join(sorted(loaded))),
        Check(
            "[SEG] is one token",
            facts["seg_ids"] == [seg] and seg == manifest["seg_token_id"],
            f"tokenizer {facts['seg_ids']}, config {seg}, manifest {manifest['seg_token_id']}",
        ),
        Check("finite weights", not not_finite, f"not finite: {some(not_finite)}" if not_finite else "all"),
    ]


def _masks(answers: ProbeAnswers, failure: str | None) -> Check:
    logits = [answers[name] for name in answers if name.startswith("logits_")]
    good = bool(logits) and all(len(each) and np.isfinite(each).all() and np.ptp(each) > 0 for each in logits)
    areas = ", ".join(f"{(each > 0).mean():.1%}" for each in logits)
    return Check("masks come out", good, failure or f"of {areas} of the drawn images")
