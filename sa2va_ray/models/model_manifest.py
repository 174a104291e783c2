"""What the folder of a trained model says of itself: `sa2va_manifest.json`, beside its weights.

Export and baselines write it last; whoever loads, serves, evaluates or replaces a model reads it first. Beside `files`
(see `sa2va_ray.manifest`) it holds facts by name; the ones that other stages ask for:

| key | meaning | where it is missing |
| --- | --- | --- |
| `kind` | which predictor loads it: `sa2va`, `unet`, `vessel_filter`, `nnunet` | `sa2va` |
| `name` | name of the model, shown in every result | `sa2va` |
| `threshold`, `cleanup` | the model's own, for queries that give none | 0.5, none |
| `data_sha256`, `trained_splits` | what it was trained on | not known, `train` |
| `calibration` | what the threshold was calibrated on | it was not |
"""

from pathlib import Path
from typing import Any

from sa2va_ray import storage
from sa2va_ray.manifest import DamagedError, read_manifest, to_json, write_manifest

MODEL_MANIFEST = "sa2va_manifest.json"
UNCALIBRATED_THRESHOLD = 0.5
"""Of probabilities that were trained as such, until `jobs.calibrate` chooses another. Upstream's; nnU-Net's as well."""

_EXPORT = "`sa2va-ray export checkpoint={uri} out=FOLDER` makes one of it"
_OTHERS = {
    "train_state.json": f"is a checkpoint, and no {{what}}: {_EXPORT}",
    "run.json": f"is the folder of a training run, and no {{what}}: {_EXPORT}",
    "quarantine.jsonl": "is a prepared data set, and no {what}",
    "config.json": "has a config.json and no {name}, which an export writes last: it is base weights, of which "
    "`sa2va-ray train` and then `sa2va-ray export` make one, or an export that was cut off and is to be run again",
}
"""File -> what a folder is that has it, and is not what was asked for."""


def read_model_manifest(uri: str | Path, what: str = "exported model") -> dict[str, Any]:
    """Reads the manifest of a model's folder, and checks that every file it names is there with the right size.

    Args:
        what: the artefact's name in messages.

    Raises:
        UserError: there is nothing.
        DamagedError: no manifest or one that cannot be read, or a file that is missing or of another size.
    """
    try:
        return read_manifest(str(uri), MODEL_MANIFEST, what)
    except DamagedError:
        if not storage.exists(storage.join(str(uri), MODEL_MANIFEST)):
            _refuse_other(str(uri), what)
        raise


def _refuse_other(uri: str, what: str) -> None:
    """
    Raises:
        UserError: there is nothing, or something else that is known.
    """
    storage.check_exists(uri)
    for file, meaning in _OTHERS.items():
        if storage.exists(storage.join(uri, file)):
            raise DamagedError(f"{uri} {meaning.format(uri=uri, what=what, name=MODEL_MANIFEST)}.") from None


def write_model_manifest(folder: Path, facts: dict[str, Any]) -> str:
    """Hashes every file in a local folder and writes the manifest. Returns the model's SHA-256 (64 hex characters)."""
    return write_manifest(folder, facts, MODEL_MANIFEST)


def update_model_manifest(uri: str | Path, facts: dict[str, Any]) -> None:
    """Puts facts into a model's manifest, in place of those of the same names. The model's SHA-256 stays, since it
    names the files alone. Raises like `read_model_manifest`."""
    manifest = read_model_manifest(uri)
    files = manifest.pop("files")
    storage.write_bytes(storage.join(str(uri), MODEL_MANIFEST), to_json(files, manifest | facts))
