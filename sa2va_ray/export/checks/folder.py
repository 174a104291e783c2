"""The checks on an exported folder: those that need nothing else, and those against the checkpoint it came from."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa2va_ray.config import UserError
from sa2va_ray.export.checks.checklist import Check, ChildFailed, run_module
from sa2va_ray.export.checks.probe import probe_images, read_answers
from sa2va_ray.export.merge import STORED_DTYPE
from sa2va_ray.export.model_files import MODEL_FILES
from sa2va_ray.export.shards import combined_sha256, read_tensors, stored_tensors, tensor_sha256
from sa2va_ray.manifest import verify_files
from sa2va_ray.models.loading.report import some
from sa2va_ray.models.model_manifest import read_model_manifest
from sa2va_ray.models.parts import module_of
from sa2va_ray.models.trained_weights import LocalCheckpoint

MIN_IOU = 0.999
_UNDECIDED = 2**-8  # of a probability of one half: half a step of bfloat16

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

Answers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FolderResult:
    """`answers` are those of `probe.ask`; empty where the folder did not get so far."""

    checks: list[Check]
    answers: Answers


@dataclass(frozen=True)
class UnmergedResult:
    """Attributes:
    changes: what `unmerged.py` found of the weights.
    answers: what the checkpoint answers with its adapters in place.
    """

    changes: dict[str, Any]
    answers: Answers


def check_folder(folder: Path) -> FolderResult:
    """All that can be found out from an exported folder alone.

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
    checks += _weights(folder, manifest)
    with tempfile.TemporaryDirectory() as out:
        try:
            run_module("sa2va_ray.export.checks.fresh_load", str(folder), out)
            failure = None
        except ChildFailed as error:
            failure = str(error)
        facts_file, answers = Path(out) / "facts.json", read_answers(Path(out))
        facts = json.loads(facts_file.read_text()) if facts_file.exists() else None
    if facts is None:
        return FolderResult([*checks, Check("loads in a fresh process", False, str(failure))], answers)
    checks += _facts(facts, manifest)
    return FolderResult([*checks, _masks(answers, failure)], answers)


def run_unmerged(folder: Path, checkpoint: LocalCheckpoint) -> UnmergedResult:
    """Runs `unmerged.py` on a folder whose files, but not its manifest, are written.

    Raises:
        UserError: the checkpoint does not load any more.
    """
    with tempfile.TemporaryDirectory() as out:
        job = {
            "folder": str(folder),
            "checkpoint": str(checkpoint.folder),
            "uri": checkpoint.uri,
            "model_config": checkpoint.model_config.model_dump(mode="json"),
            "out": out,
        }
        (Path(out) / "job.json").write_text(json.dumps(job))
        try:
            run_module("sa2va_ray.export.checks.unmerged", str(Path(out) / "job.json"))
        except ChildFailed as error:
            raise UserError(f"The checkpoint {checkpoint.uri} could not be run to be compared with: {error}") from None
        changes = json.loads((Path(out) / "changes.json").read_text())
        return UnmergedResult(changes, read_answers(Path(out)))


def check_changes(changes: Mapping[str, Any]) -> list[Check]:
    """That what was trained has changed, as the checkpoint says, and nothing else."""
    total = {key: sum(row[key] for row in changes["modules"].values()) for key in ("should", "changed", "trained")}
    wrong = changes["wrong"]
    lost = total["trained"] - total["should"]
    note = f"; of {total['trained']} trained ones {lost} moved by less than bfloat16 can tell" if lost else ""
    return [
        Check(
            "tensors that should have changed have",
            total["should"] > 0 and not wrong["unchanged"],
            some(wrong["unchanged"]) or f"{total['changed']} changed{note}"
            if total["should"]
            else "none should: the weights of this checkpoint are those of its base, so nothing was trained",
        ),
        Check("no others have", not wrong["changed_but_frozen"], some(wrong["changed_but_frozen"]) or "none"),
        Check(
            "values are the checkpoint's, rounded once",
            not wrong["not_merged_value"],
            some(wrong["not_merged_value"]) or "all, to 2^-8 of each",
        ),
    ]


def check_answers(exported: Answers, unmerged: Answers) -> list[Check]:
    """That an exported model draws and says what its un-merged checkpoint does (`unmerged.py` tells which).

    Pixels whose probability is within half a step of bfloat16 of one half are left out, since on a GPU that computes in
    it they could be either, and so is a text behind the token where its model is not decided.
    """
    if not exported:
        return [Check("masks and text are the checkpoint's", False, "the exported model did not answer")]
    ious, rounding, checks = [], [], []
    for index in range(len(probe_images())):
        ours, theirs = exported[f"logits_{index}"], unmerged[f"logits_{index}"]
        decided = np.abs(_probability(theirs) - 0.5) >= _UNDECIDED
        ious.append(_iou(ours[decided], theirs[decided]) if ours.shape == theirs.shape else 0.0)
        rounding.append(_iou(theirs, unmerged[f"exact_logits_{index}"]))
        text, expected = str(exported[f"text_{index}"]), str(unmerged[f"text_{index}"])
        prefix = str(unmerged[f"decided_{index}"])
        same = text == expected or (prefix != expected and text.startswith(prefix))
        note = "same" if text == expected else f"same where the checkpoint is decided ({len(prefix)} characters)"
        checks.append(Check(f"text on image {index}", same, note if same else f"{text!r}, not {expected!r}"))
    detail = f"IoU {min(ious):.5f}, at least {MIN_IOU} is asked; rounding alone {min(rounding):.5f}"
    return [Check("masks of the un-merged checkpoint", min(ious) >= MIN_IOU, detail), *checks]


def mask_agreement(exported: Answers, unmerged: Answers) -> dict[str, float]:
    """Smallest IoU of all images' masks: with the un-merged checkpoint as stored, and as it was trained, unrounded."""
    pairs = range(len(probe_images()))
    return {
        "iou_unmerged": min(_iou(exported[f"logits_{i}"], unmerged[f"logits_{i}"]) for i in pairs),
        "iou_unrounded": min(_iou(exported[f"logits_{i}"], unmerged[f"exact_logits_{i}"]) for i in pairs),
    }


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
    other = {module: row for module, row in found.items() if row.keys() != {expected}}
    weights = combined_sha256({name: tensor_sha256(t) for name, t in read_tensors(stored_tensors(folder))})
    return [
        Check(
            "dtype of stored weights",
            not other and found == manifest["dtypes"],
            f"not {expected}: {other}" if other else f"{expected} in all {len(found)} modules",
        ),
        Check("weights are the manifest's", weights == manifest["weights_sha256"], weights[:12]),
        Check(
            "weights are not the base's",
            weights != manifest["base_weights_sha256"],
            f"{manifest['num_changed_tensors']} tensors changed",
        ),
    ]


def _facts(facts: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[Check]:
    problems = "; ".join(f"{kind}: {some(names)}" for kind, names in facts["problems"].items())
    count, expected = facts["num_parameters"], manifest["num_parameters"]
    sizes = [facts[key] for key in ("tokenizer_size", "embedding_rows", "head_rows")]
    seg = facts["config_seg_token_id"]
    loaded = {dtype for row in facts["dtypes"].values() for dtype in row}
    not_finite = facts["not_finite"]
    return [
        Check("loads in a fresh process", not problems, problems or f"every tensor, by {facts['code'].split('.')[0]}"),
        Check("parameters", count == expected, f"{count:,}" + ("" if count == expected else f", not {expected:,}")),
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


def _masks(answers: Answers, failure: str | None) -> Check:
    logits = [answers[name] for name in answers if name.startswith("logits_")]
    good = bool(logits) and all(len(each) and np.isfinite(each).all() and np.ptp(each) > 0 for each in logits)
    areas = ", ".join(f"{(each > 0).mean():.1%}" for each in logits)
    return Check("masks come out", good, failure or f"of {areas} of the drawn images")


def _probability(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    """Of the masks at probability one half; 1 where both are empty."""
    union = np.count_nonzero((one > 0) | (other > 0))
    return float(np.count_nonzero((one > 0) & (other > 0)) / union) if union else 1.0
