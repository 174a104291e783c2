"""The baseline job: fits on the training patients and writes a model folder, the manifest last."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from sa2va_ray import __version__, storage
from sa2va_ray.baselines.config import BaselineConfig, BaselineKind
from sa2va_ray.baselines.filter_fitting import fit_filter
from sa2va_ray.baselines.fitted import FittedBaseline
from sa2va_ray.baselines.nnunet_training import train_nnunet
from sa2va_ray.baselines.unet_training import train_unet
from sa2va_ray.cluster.resources import check_paths, connect
from sa2va_ray.config import UserError
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, write_model_manifest
from sa2va_ray.telemetry import LOGGER, configure_logging, log_result

FITTERS: Mapping[BaselineKind, Callable[[BaselineConfig], FittedBaseline]] = {
    "unet": train_unet,
    "vessel_filter": fit_filter,
    "nnunet": train_nnunet,
}


def fit_baseline(config: BaselineConfig) -> str:
    """Fits the baseline and writes its folder to `config.out`.

    Returns:
        the model's SHA-256, which names it in every later result.

    Raises:
        UserError: data, storage or cluster do not fit the config, or training failed.
    """
    configure_logging()
    storage.check_outside(config.out, {"data_uri": config.data_uri}, replaced=True)
    data_manifest = read_manifest(config.data_uri, what="prepared data set")
    _check_replaceable(config.out)
    storage.check_writable(config.out)
    connect()
    check_paths(config, data_uri=config.data_uri, out=config.out)
    fitted = FITTERS[config.kind](config)
    facts = {
        "kind": config.kind,
        "name": config.name,
        "data_sha256": digest(data_manifest),
        "trained_splits": ["train"],
        "train_counts": data_manifest["counts"]["train"],
        "train_metrics": fitted.metrics,
        "threshold": fitted.threshold,
        "tool_version": __version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder)
        for name, content in fitted.files.items():
            (local / name).write_bytes(content)
        model_sha256 = write_model_manifest(local, facts)
        storage.delete_folder(config.out)
        storage.upload_folder(local, config.out, last=MODEL_MANIFEST)
    LOGGER.info("%s: %s, threshold %.3f, model %s", config.kind, config.out, fitted.threshold, model_sha256[:12])
    log_result(config.out, "jobs.evaluate", f"model={config.out}", f"data_uri={config.data_uri}", "out=EVALUATION")
    return model_sha256


def _check_replaceable(uri: str) -> None:
    files = storage.list_files(uri)
    if files and MODEL_MANIFEST not in files:
        raise UserError(
            f"`out` {uri} holds {len(files)} file(s) and is no model. Nothing was changed. Choose an empty folder or "
            "one of a model that may be replaced."
        )
