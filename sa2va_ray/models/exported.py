"""Loading an exported folder, from any storage, by way of a verified local copy."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from sa2va_ray import storage
from sa2va_ray.manifest import digest, read_manifest, verify_files
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor

MODEL_MANIFEST = "sa2va_manifest.json"


@dataclass
class ExportedModel:
    """A loaded model with what its manifest says of it."""

    model: Sa2VAModel
    processor: Sa2VAProcessor
    name: str
    sha256: str
    threshold: float


def load_exported(uri: str, device: str, dtype: torch.dtype) -> ExportedModel:
    """Loads an exported folder after checking it against its manifest, hash by hash.

    Raises:
        UserError: not an exported model, or a damaged one.
    """
    manifest = read_manifest(uri, MODEL_MANIFEST, what="exported model")
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "model"
        storage.download_folder(uri, local)
        verify_files(local, manifest)
        # Our own classes, not the folder's copies of them: the same code, without running code from storage.
        config = Sa2VAConfig.from_pretrained(local)
        model = Sa2VAModel.from_pretrained(local, config=config, dtype=dtype).eval()
        model.to(device=torch.device(device))
        processor = Sa2VAProcessor(config, AutoTokenizer.from_pretrained(local))
    return ExportedModel(model, processor, manifest["name"], digest(manifest), manifest["threshold"])
