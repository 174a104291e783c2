"""What is in an exported folder beside its weights: config, tokenizer, generation config, the model's code."""

import json
import shutil
from pathlib import Path

from transformers import GenerationConfig

from sa2va_ray.export.upstream_config import upstream_config
from sa2va_ray.models import sa2va
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor

MODEL_FILES = tuple(sorted(path.name for path in Path(sa2va.__path__[0]).glob("*_*.py") if path.stem != "__init__"))
"""The files that a folder of the own layout runs on."""

_CODE = {"AutoConfig": "configuration_sa2va.Sa2VAConfig", "AutoModel": "modeling_sa2va.Sa2VAModel"}


def write_model_files(folder: Path, config: Sa2VAConfig, processor: Sa2VAProcessor, layout: str) -> None:
    """Writes all files of `layout` but weights, card and manifest."""
    tokenizer = processor.tokenizer
    tokenizer.save_pretrained(folder)
    GenerationConfig(
        do_sample=False, eos_token_id=processor.end_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(folder)
    if layout == "upstream":
        _write_json(folder, upstream_config(config))
        return
    config.save_pretrained(folder)
    update_config(folder, {"architectures": ["Sa2VAModel"], "dtype": "bfloat16", "auto_map": _CODE})
    for name in MODEL_FILES:
        shutil.copy(Path(sa2va.__path__[0]) / name, folder / name)


def update_config(folder: Path, values: dict) -> None:
    """Puts values into a folder's config.json, in place of those of the same names."""
    _write_json(folder, {**json.loads((folder / "config.json").read_text()), **values})


def _write_json(folder: Path, values: dict) -> None:
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
