"""Loads an exported folder as a user would, in a process of its own, and tells what came out.

    python -m sa2va_ray.export.checks.child sa2va_ray.export.checks.fresh_load FOLDER OUT

The model's code is the folder's own: `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)`. A folder of
upstream's layout has none, so our loader reads it. Writes `facts.json`, then `answers.npz` (see `probe.ask`), which
are computed in float32, on the GPU where the process sees one.
"""

import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from sa2va_ray.export.checks.probe import answering_device, ask, save_answers
from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.loading.place import all_finite
from sa2va_ray.models.parts import module_of
from sa2va_ray.models.quantisation import QUANTISATION_KEY, plain_tensors
from sa2va_ray.models.sa2va import generation_sa2va
from sa2va_ray.models.sa2va.processing_sa2va import SEG_TOKEN, Sa2VAProcessor


def main(folder: str, out: str) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    upstream = "Sa2VAChatModel" in json.loads((Path(folder) / "config.json").read_text())["architectures"]
    model, processor, code, problems = _load_ours(folder) if upstream else _load_remote_code(folder)
    facts = {"problems": problems, "code": type(model).__module__, **_describe(model, processor)}
    (Path(out) / "facts.json").write_text(json.dumps(facts))
    answers = ask(_in_float32(model, folder), processor, code.segment, code.Request)
    save_answers(Path(out), answers)


def _in_float32(model: Any, folder: str) -> Any:
    if hasattr(model.config, QUANTISATION_KEY):  # such a model cannot be cast once it is there
        return AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    return model.to(answering_device()).float().eval()


def _load_remote_code(folder: str) -> tuple[PreTrainedModel, Any, Any, dict[str, list[str]]]:
    model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    code = sys.modules[type(model).__module__]  # it imports the names that are wanted here from its neighbours
    problems = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    return model, code.Sa2VAProcessor(model.config, tokenizer), code, problems


def _load_ours(folder: str) -> tuple[PreTrainedModel, Any, Any, dict[str, list[str]]]:
    loaded = load_model(folder)
    return loaded.model, loaded.processor, generation_sa2va, {}


def _describe(model: Any, processor: Sa2VAProcessor) -> dict[str, Any]:
    dtypes: dict[str, Counter[str]] = defaultdict(Counter)
    not_finite = []
    for name, tensor in model.state_dict().items():
        dtypes[module_of(name)][str(tensor.dtype).removeprefix("torch.")] += 1
    for name, tensor in plain_tensors(model).items():
        if not all_finite(tensor):
            not_finite.append(name)
    language_model = model.language_model
    return {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtypes": dtypes,
        "not_finite": not_finite,
        "tokenizer_size": len(processor.tokenizer),
        "embedding_rows": len(language_model.get_input_embeddings().weight),
        "head_rows": len(language_model.lm_head.weight),
        "config_seg_token_id": model.config.seg_token_id,
        "seg_ids": processor.tokenizer.encode(SEG_TOKEN, add_special_tokens=False),
    }
