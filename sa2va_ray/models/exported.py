"""Loading an exported folder, with what its manifest says of it."""

from dataclasses import dataclass

import torch

from sa2va_ray.config import UserError
from sa2va_ray.manifest import digest
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.models.state_dict import MODEL_MANIFEST, load_model

__all__ = ["MODEL_MANIFEST", "ExportedModel", "load_exported"]


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
    # Our own classes, not the folder's copies of them: the same code, without running code from storage.
    loaded = load_model(uri, device=device, dtype=dtype)
    if loaded.manifest is None:
        raise UserError(
            f"{uri} is not a complete exported model: it has no {MODEL_MANIFEST}, which is written last. "
            "Either the path is wrong or the job that wrote it was cut off; run that job again."
        )
    manifest = loaded.manifest
    return ExportedModel(loaded.model, loaded.processor, manifest["name"], digest(manifest), manifest["threshold"])
