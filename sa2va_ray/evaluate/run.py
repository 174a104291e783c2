"""Evaluates an exported model on one split of a prepared data set, as a Ray Data job.

The predictor sees the image and the phrase; the true mask meets the prediction only in `overlap_metrics`.
"""

import io
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.data.masks import rle_to_mask
from sa2va_ray.evaluate.config import EvaluateConfig
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.metrics import overlap_metrics
from sa2va_ray.models.state_dict import MODEL_MANIFEST
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor
from sa2va_ray.telemetry import LOGGER, configure_logging, log_progress

METRICS = ("dice", "iou", "precision", "recall")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measures, writes `metrics.json` and `images.jsonl` to `config.out`, and returns the former.

    Every object of every image counts once. An answer without a mask counts as an empty mask, and is counted as such.

    Raises:
        UserError: model, data or storage do not work, or the split is empty.
    """
    configure_logging()
    model_manifest = read_manifest(config.model, MODEL_MANIFEST, what="exported model")
    data_manifest = read_manifest(config.data, what="prepared data set")
    files = [name for name in data_manifest["files"] if name.startswith(f"{config.split}-")]
    if not files:
        raise UserError(
            f"{config.data} has no samples in the split '{config.split}'. Prepare it with another split_seed."
        )
    storage.check_writable(config.out)
    if not ray.is_initialized():
        ray.init()
    rows = _measure(config, files)
    result = {
        "model": {"name": model_manifest["name"], "sha256": digest(model_manifest)},
        "data_sha256": digest(data_manifest),
        "split": config.split,
        **summarize(rows),
    }
    _write(config.out, result, rows)
    LOGGER.info("evaluated: %s", ", ".join(f"{name} {result['per_image'][name]:.4f}" for name in METRICS))
    return result


class MeasureObjects:
    """Actor: rows of samples -> one row of metrics per object."""

    def __init__(self, model_uri: str):
        self._predictor = Sa2VAPredictor.from_pretrained(model_uri)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list]:
        samples = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        pairs = [(sample, each) for sample in samples for each in sample["objects"]]
        queries = [
            Query(Image.open(io.BytesIO(sample["image"])), evaluation_prompt(each["phrase"])) for sample, each in pairs
        ]
        predictions = self._predictor.predict(queries)
        rows = [
            {
                "sample_id": sample["sample_id"],
                "patient_id": sample["patient_id"],
                "phrase": each["phrase"],
                "has_mask": len(prediction.masks) > 0,
                **overlap_metrics(prediction.union(), rle_to_mask(each["rle"])),
            }
            for (sample, each), prediction in zip(pairs, predictions, strict=True)
        ]
        return {name: [row[name] for row in rows] for name in rows[0]}


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over objects and over patients (each patient's mean counts once), and the counts behind them."""
    by_patient: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_patient[row["patient_id"]].append(row)
    patients = [_mean(group) for group in by_patient.values()]
    return {
        "num_images": len({row["sample_id"] for row in rows}),
        "num_objects": len(rows),
        "num_patients": len(by_patient),
        "num_without_mask": sum(not row["has_mask"] for row in rows),
        "per_image": _mean(rows),
        "per_patient": _mean(patients),
    }


def _mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in METRICS}


def _measure(config: EvaluateConfig, files: list[str]) -> list[dict[str, Any]]:
    filesystem, _ = storage.resolve(config.data)
    paths = [storage.resolve(storage.join(config.data, name))[1] for name in files]
    samples = ray.data.read_parquet(paths, filesystem=filesystem)
    total = samples.count()
    measured = samples.map_batches(
        MeasureObjects,
        fn_constructor_args=(config.model,),
        batch_size=config.batch_size,
        compute=ray.data.ActorPoolStrategy(size=config.num_actors),
        num_cpus=config.cpus_per_actor,
        num_gpus=1 if config.use_gpu else 0,
    )
    rows: list[dict[str, Any]] = []
    for row in measured.iter_rows():
        rows.append(row)
        log_progress("evaluate", min(len(rows), total), total)
    return rows


def _write(out: str, result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, default=lambda value: value.item()) + "\n" for row in rows)
    storage.write_bytes(storage.join(out, "images.jsonl"), lines.encode())
    storage.write_bytes(storage.join(out, "metrics.json"), (json.dumps(result, indent=2) + "\n").encode())
