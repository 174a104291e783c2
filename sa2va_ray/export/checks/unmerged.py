"""An exported folder held against its checkpoint, whose adapters stay in place, in a process of its own.

    python -m sa2va_ray.export.checks.child sa2va_ray.export.checks.unmerged JOB.json

JOB: `folder`, `checkpoint` (folder), `model_config` (with a local base), `out`. Writes `changes.json` and
`answers.npz`. In order:

1. The base is built again and must have the SHA-256 that was trained on. Which stored tensors differ from it, and by
   how much.
2. Trained tensors and adapters are put in. For each weight W the value M that peft's formula merges it to, in float32:
   the stored tensor must be M rounded to bfloat16, so |stored - M| <= 2^-8 |M| (bfloat16's unit roundoff; 1 % is added
   for the float32 sums, whose order may differ, 2^-20 of its row's largest value where they cancel: W and sBA are
   rounded to 2^-24 of themselves, however small their sum; and 2^-134, half of the smallest number). It must differ
   from the base where rounded M differs from rounded W, and only there.
3. What the model answers, first as it is, then with every tensor but the adapters rounded to bfloat16.

Masks are compared with the second of these. The first differs by what storing in bfloat16 does to weights that were
never merged (SAM 2's, say), which is wanted and shown as `rounding`; against the second what is left is merging alone:
round(W + sBA) in one product, or round(W) and sBA in two. A GPU that trains in bfloat16 computes with the second, too.
All answers are in float32, since sums in bfloat16 differ by more than that between any two orders of summing. All of it
is done on the GPU where the process sees one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sa2va_ray.export.checks.probe import PROMPT, answering_device, ask, probe_images, save_answers
from sa2va_ray.export.merge import STORED_DTYPE
from sa2va_ray.export.shards import combined_sha256, read_tensors, stored_tensors, tensor_hashes
from sa2va_ray.models.config import ModelConfig
from sa2va_ray.models.loading.weight_files import reading
from sa2va_ray.models.lora import merged_tensors
from sa2va_ray.models.parts import module_of
from sa2va_ray.models.sa2va.generation_sa2va import segment
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.preparation_sa2va import Request
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.models.trained_weights import apply_trained, build_base, read_local_checkpoint

ROUNDOFF = 2**-8
_SLACK = 1.01
_CANCELLED = 2**-20
_SMALLEST = 2**-134  # half of the smallest number that bfloat16 has; what is less becomes zero
_LOGIT_STEP = 2**-7  # two neighbouring bfloat16 numbers differ by at most this share of the larger


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    folder, out = Path(job["folder"]), Path(job["out"])
    checkpoint = read_local_checkpoint(Path(job["checkpoint"]), job["uri"], ModelConfig.parse(job["model_config"]))
    model, processor = build_base(checkpoint)
    nn.Module.to(model, answering_device())
    base_hashes, norms = _against_base(folder, model)
    apply_trained(model, processor, checkpoint)
    model.eval()
    changes = _against_merged(folder, model, base_hashes, norms)
    (out / "changes.json").write_text(json.dumps(changes))
    exact = ask(model, processor, segment, Request)
    _round(model)
    rounded = ask(model, processor, segment, Request)
    for index in range(len(probe_images())):
        rounded[f"decided_{index}"] = np.array(_decided(model, processor, index, str(rounded[f"text_{index}"])))
        rounded[f"exact_logits_{index}"] = exact[f"logits_{index}"]
    save_answers(out, rounded)


def _against_base(folder: Path, model: Sa2VAModel) -> tuple[dict[str, str], dict[str, tuple[float, float]]]:
    """By name, of the base's tensor as it would be stored: its SHA-256; the norms of what is stored less that, and of
    that."""
    base = model.state_dict()
    norms = {}

    def compared() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in read_tensors(stored_tensors(folder)):
            before = base[name].to(STORED_DTYPE)
            norms[name] = (_norm(tensor.to(before.device).float() - before), _norm(before))
            yield name, before.cpu()

    return tensor_hashes(compared()), norms


def _against_merged(
    folder: Path, model: Sa2VAModel, base_hashes: dict[str, str], norms: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    """Counts and norms by module, names of tensors that are not as they should be, hashes of all weights together."""
    stored = stored_tensors(folder)
    hashes = tensor_hashes(read_tensors(stored))
    wrong: dict[str, list[str]] = {"changed_but_frozen": [], "unchanged": [], "not_merged_value": []}
    trained: dict[str, bool] = {}

    def as_they_should_be() -> Iterator[tuple[str, Tensor]]:
        for name, merged, is_trained in merged_tensors(model):
            trained[name] = is_trained
            with reading(stored[name].path) as read:
                if not _is_rounded(read(stored[name]).to(merged.device), merged):
                    wrong["not_merged_value"].append(name)
            yield name, merged.to(STORED_DTYPE).cpu()

    modules: dict[str, dict[str, float]] = {}
    for name, merged_hash in tensor_hashes(as_they_should_be()).items():
        changed, should = hashes[name] != base_hashes[name], merged_hash != base_hashes[name]
        if changed and not trained[name]:
            wrong["changed_but_frozen"].append(name)
        if should and not changed:
            wrong["unchanged"].append(name)
        row = modules.setdefault(module_of(name), dict.fromkeys(("tensors", "trained", "should", "changed"), 0))
        for key, value in (("tensors", True), ("trained", trained[name]), ("should", should), ("changed", changed)):
            row[key] += value
        for key, norm in zip(("norm_of_change", "norm_of_base"), norms[name], strict=True):
            row[key] = float(np.hypot(row.get(key, 0.0), norm))
    return {
        "modules": modules,
        "wrong": wrong,
        "weights_sha256": combined_sha256(hashes),
        "base_weights_sha256": combined_sha256(base_hashes),
    }


def _is_rounded(stored: Tensor, merged: Tensor) -> bool:
    bound = _SLACK * ROUNDOFF * merged.abs() + _CANCELLED * merged.abs().amax(-1, keepdim=True) + _SMALLEST
    return bool(((stored.float() - merged).abs() <= bound).all())  # so written, NaN is wrong


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _round(model: Sa2VAModel) -> None:
    """Rounds all but LoRA's matrices to what is stored; they stay float32."""
    for name, tensor in model.state_dict().items():
        if ".lora_" not in name:
            tensor.copy_(tensor.to(STORED_DTYPE))


@torch.no_grad()
def _decided(model: Sa2VAModel, processor: Sa2VAProcessor, index: int, text: str) -> str:
    """The beginning of `text` on which the model is decided: up to the first token whose lead over the second likeliest
    is less than two steps of bfloat16, where a GPU that computes in it might say either."""
    image = probe_images()[index]
    tiles, grounding = processor.image_tiles(image), processor.grounding_image(image)[None]
    said = processor.answer_ids(text)
    ids = processor.prompt_ids(PROMPT, len(tiles)) + said
    wanted = torch.zeros(1, len(ids), dtype=torch.bool)
    wanted[0, len(ids) - len(said) - 1 : -1] = True
    tiles, grounding = tiles.to(model.device), grounding.to(model.device)
    logits = model(torch.tensor([ids]), torch.ones(1, len(ids)), tiles, grounding, wanted).logits.cpu()
    top = logits.topk(2).values
    sure = (top[:, 0] - top[:, 1] > 2 * _LOGIT_STEP * top.abs().amax(dim=1)) & (logits.argmax(1) == torch.tensor(said))
    count = len(said) if bool(sure.all()) else int(sure.int().argmin())
    return text if count == len(said) else processor.decode(said[:count])
