"""Writes the exported folder: weights, config, tokenizer, the five model files, the card and the manifest."""

import json
import shutil
import tempfile
from pathlib import Path

from transformers import GenerationConfig

from sa2va_ray import __version__, storage
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.manifest import write_manifest
from sa2va_ray.models import sa2va
from sa2va_ray.models.checkpoint import TrainState, find_checkpoint, load_trained_model
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.models.state_dict import MODEL_MANIFEST
from sa2va_ray.telemetry import LOGGER, configure_logging

_AUTO_MAP = {
    "AutoConfig": "configuration_sa2va.Sa2VAConfig",
    "AutoModel": "modeling_sa2va.Sa2VAModel",
}


def export(config: ExportConfig) -> str:
    """Merges a checkpoint into its base and writes one Hugging Face folder to `config.out`.

    Returns:
        the model's SHA-256, which names its weights and code in every later result.

    Raises:
        UserError: no complete checkpoint, storage that cannot be written.
    """
    configure_logging()
    checkpoint_uri = find_checkpoint(config.checkpoint)
    storage.check_writable(config.out)
    model, processor, state, checkpoint_sha256 = load_trained_model(checkpoint_uri)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder)
        _write_folder(local, model, processor)
        (local / "README.md").write_text(_model_card(config, model, state, checkpoint_sha256))
        facts = {
            "name": config.name,
            "base_sha256": state.base_sha256,
            "checkpoint_sha256": checkpoint_sha256,
            "data_sha256": state.data_sha256,
            "train_step": state.step,
            "train_metrics": state.metrics,
            "threshold": 0.5,
            "tool_version": __version__,
        }
        model_sha256 = write_manifest(local, facts, MODEL_MANIFEST)
        storage.delete_folder(config.out)
        storage.upload_folder(local, config.out, last=MODEL_MANIFEST)
    LOGGER.info("exported: %s, step %d, model %s", config.out, state.step, model_sha256[:12])
    return model_sha256


def _write_folder(folder: Path, model: Sa2VAModel, processor: Sa2VAProcessor) -> None:
    model.bfloat16().save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    GenerationConfig(
        do_sample=False, eos_token_id=processor.end_token_id, pad_token_id=processor.tokenizer.pad_token_id
    ).save_pretrained(folder)
    config_file = folder / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "auto_map": _AUTO_MAP}, indent=2) + "\n")
    for source in sorted(Path(sa2va.__path__[0]).glob("*_*.py")):
        if source.name != "__init__.py":
            shutil.copy(source, folder / source.name)


def _model_card(config: ExportConfig, model: Sa2VAModel, state: TrainState, checkpoint_sha256: str) -> str:
    metrics = "\n".join(f"| {name} | {value:.4g} |" for name, value in state.metrics.items())
    return f"""---
library_name: transformers
pipeline_tag: image-segmentation
tags: [sa2va, vessel-segmentation]
---
# {config.name}

Sa2VA with {sum(parameter.numel() for parameter in model.parameters()):,} parameters, trained for {state.step} steps
({state.samples_seen:,} samples) with sa2va_ray {__version__}. **Not a medical device**: for research only.

```python
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained(folder, trust_remote_code=True)  # needs torch, transformers and sam2
```

| made from | SHA-256 |
|---|---|
| base weights | `{state.base_sha256}` |
| checkpoint | `{checkpoint_sha256}` |
| data | `{state.data_sha256}` |

| at the last step | value |
|---|---|
{metrics}
"""
