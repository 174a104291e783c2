"""What the folder of a trained model says of itself: `sa2va_manifest.json`, beside its weights.

Export and baselines write it last; whoever loads, serves, evaluates or replaces a model reads it first. Beside `files`
(see `sa2va_ray.manifest`) it holds facts by name; the ones that other stages ask for:

| key | meaning | where it is missing |
| --- | --- | --- |
| `kind` | which predictor loads it: `sa2va`, `unet`, `vessel_filter` | `sa2va` |
| `name` | name of the model, shown in every result | `sa2va` |
| `threshold`, `cleanup` | the model's own, for queries that give none | 0.5, none |
| `data_sha256`, `trained_splits` | what it was trained on | not known, `train` |
| `calibration` | what the threshold was calibrated on | it was not |
"""

from pathlib import Path
from typing import Any

from sa2va_ray import storage
from sa2va_ray.manifest import read_manifest, to_json, write_manifest

MODEL_MANIFEST = "sa2va_manifest.json"


def read_model_manifest(uri: str | Path, what: str = "exported model") -> dict[str, Any]:
    """Reads the manifest of a model's folder, and checks that every file it names is there with the right size.

    Args:
        what: the artefact's name in messages.

    Raises:
        DamagedError: no manifest or one that cannot be read, or a file that is missing or of another size.
    """
    return read_manifest(str(uri), MODEL_MANIFEST, what)


def write_model_manifest(folder: Path, facts: dict[str, Any]) -> str:
    """Hashes every file in a local folder and writes the manifest. Returns the model's SHA-256 (64 hex characters)."""
    return write_manifest(folder, facts, MODEL_MANIFEST)


def update_model_manifest(uri: str | Path, facts: dict[str, Any]) -> None:
    """Puts facts into a model's manifest, in place of those of the same names. The model's SHA-256 stays, since it
    names the files alone. Raises like `read_model_manifest`."""
    manifest = read_model_manifest(uri)
    files = manifest.pop("files")
    storage.write_bytes(storage.join(str(uri), MODEL_MANIFEST), to_json(files, manifest | facts))
