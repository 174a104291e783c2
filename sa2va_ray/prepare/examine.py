"""First pass over the source: a verdict on every sample, and the facts that the later steps decide by.

No image leaves the workers here: an outcome is a row of a few hundred bytes.
"""

import hashlib
import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sa2va_ray import storage
from sa2va_ray.cluster.streams import map_items
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.prepare.checks.corrections import corrections_of
from sa2va_ray.prepare.checks.duplicates import perceptual_hash
from sa2va_ray.prepare.checks.validate import Checked, check_sample
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.identity.pseudonyms import Identity
from sa2va_ray.prepare.records import Finding, Quarantined, Record, Rejected

VERDICTS = OK, REPAIRED, QUARANTINED = "ok", "repaired", "quarantined"

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),  # place in the source's list
        ("verdict", pa.string()),
        ("findings", pa.list_(pa.struct([("code", pa.string()), ("detail", pa.string())]))),
        ("sample_id", pa.string()),
        ("patient_id", pa.string()),
        ("run_id", pa.string()),
        ("frame", pa.int64()),
        ("split", pa.string()),  # null: not in the data set
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("num_objects", pa.int64()),  # 0: an image without the object
        ("phrases", pa.list_(pa.string())),  # that are asked for; null where the sample cannot be used
        ("foreground", pa.float64()),  # share of the pixels
        ("ignored_fraction", pa.float64()),  # share of the pixels
        ("mask_dice", pa.float64()),  # of the polygons against the mask image
        # of several annotators, each with the Dice against the consensus; null where there is one
        ("annotators", pa.list_(pa.struct([("annotator", pa.string()), ("dice", pa.float64())]))),
        ("pixel_spacing_mm", pa.list_(pa.float64())),  # (row, column); null: not known
        ("agreement", pa.float64()),  # mean Dice of every two of them
        ("annotations_sha256", pa.list_(pa.string())),  # of the ids of what the label was made of; null: not told
        ("lead_time_s", pa.float64()),  # that people had the image open; null: not told
        ("predicted_by", pa.string()),  # version of our model that drew first; null: none did
        ("correction_dice", pa.float64()),  # of its masks and the label; null where there are none that can be read
        ("source_sha256", pa.string()),
        ("perceptual_hash", pa.binary()),
        ("pixels_sha256", pa.string()),
        ("masks_sha256", pa.string()),
    ]
)
_ITEMS_PER_TASK = 8


@dataclass(frozen=True)
class Task:
    """A sample to look at, with what stands for its name."""

    record: Record
    identity: Identity
    split: str


def examine(tasks: Sequence[Task], quarantined: Sequence[Quarantined], config: PrepareConfig) -> dict[int, dict]:
    """Index -> row of `SCHEMA`, of all tasks and of all samples that are in quarantine before."""
    rows = [{"sample_id": each.sample_id, **_quarantined_row(each)} for each in quarantined]
    rows += map_items(partial(_examine, config=config), tasks, SCHEMA, _ITEMS_PER_TASK, "validate")
    return {row["index"]: row for row in sorted(rows, key=lambda row: row["index"])}


def put_in_quarantine(row: dict[str, Any], quarantined: Quarantined) -> None:
    """Changes a row of `SCHEMA` whose sample was found to be unusable when it was seen beside others."""
    row.update(_quarantined_row(quarantined))


def content_sha256(checked: Checked) -> str:
    """Hash of what the label of a sample says."""
    rles = {phrase: mask_to_rle(mask) for phrase, mask in sorted(checked.masks.items())}
    ignored = [] if checked.ignored is None else [mask_to_rle(checked.ignored)]
    several = [{who: to_objects(masks) for who, masks in checked.by_annotator.items()}] if checked.by_annotator else []
    return hashlib.sha256(json.dumps([rles, *ignored, *several]).encode()).hexdigest()


def to_objects(masks: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Phrase -> (H, W) bool as a sample's `objects`."""
    return [{"phrase": phrase, "rle": mask_to_rle(mask)} for phrase, mask in masks.items()]


def _examine(task: Task, config: PrepareConfig) -> dict[str, Any]:
    index = task.record.index
    try:
        checked = check_sample(task.record, config)
    except Rejected as rejected:
        return {**asdict(task.identity), **rejected.seen, **_quarantined_row(rejected.to_quarantined(index))}
    except storage.SilentStoreError:
        raise
    except Exception as error:  # its message may hold a path, and one sample must not stop the job
        return {**asdict(task.identity), **_quarantined_row(_unexpected(index, error))}
    return _row(task, checked)


def _row(task: Task, checked: Checked) -> dict[str, Any]:
    height, width = checked.pixels.shape[:2]
    return {
        **asdict(task.identity),
        "index": task.record.index,
        "verdict": REPAIRED if checked.findings else OK,
        "findings": [asdict(each) for each in checked.findings],
        "split": task.split,
        "height": height,
        "width": width,
        "num_objects": checked.num_objects,
        "phrases": list(checked.masks),
        "foreground": float(checked.union.mean()),
        "mask_dice": checked.mask_dice,
        "annotators": [{"annotator": who, "dice": dice} for who, dice in checked.dice_of_annotators.items()] or None,
        "agreement": checked.agreement,
        "pixel_spacing_mm": checked.spacing and list(checked.spacing),
        "source_sha256": checked.source_sha256,
        **corrections_of(task.record, checked),
        "perceptual_hash": perceptual_hash(checked.pixels),
        "pixels_sha256": hashlib.sha256(repr(checked.pixels.shape).encode() + checked.pixels.tobytes()).hexdigest(),
        "masks_sha256": content_sha256(checked),
        "ignored_fraction": 0.0 if checked.ignored is None else float(checked.ignored.mean()),
    }


def _quarantined_row(quarantined: Quarantined) -> dict[str, Any]:
    finding = Finding(quarantined.code, quarantined.reason)
    return {"index": quarantined.index, "verdict": QUARANTINED, "findings": [asdict(finding)], "split": None}


def _unexpected(index: int, error: Exception) -> Quarantined:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return Quarantined(index, "unexpected", f"{type(error).__name__} at {where}: a fault of this program; report it.")
