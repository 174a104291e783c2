"""Second pass over the source: Parquet files, written by the workers, and the manifest last.

A file carries a hash of all that went into it, so that a job that starts again after a crash leaves the files that are
already right as they are.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sa2va_ray import __version__, storage
from sa2va_ray.cluster.streams import map_items
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SCHEMA, SPLITS
from sa2va_ray.images.decode import to_png
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.manifest import MANIFEST
from sa2va_ray.prepare.checks.validate import FILE_MISSING, check_sample
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.examine import Task, content_sha256, to_objects
from sa2va_ray.prepare.records import Place, Rejected

QUARANTINE = "quarantine.jsonl"
REPORT_FILES = ("report.html", "report.json", "contact_sheet.png")
VALIDATION = "validation"
"""Folder in `out` for the report of a run that does not end in a data set."""
MAX_ROWS_PER_FILE = 256

_INPUTS = b"sa2va_inputs_sha256"
_DATA_FILE = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.parquet")
_OUR_FILE = re.compile(
    rf"(({VALIDATION}/)?({'|'.join(map(re.escape, (QUARANTINE, *REPORT_FILES)))})|{_DATA_FILE.pattern}|"
    rf"{re.escape(MANIFEST)})({re.escape(storage.PARTIAL)})?|({VALIDATION}/)?\.[0-9a-f]{{32}}{re.escape(storage.PARTIAL)}"
)
_WRITTEN = pa.schema(
    [
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("size", pa.int64()),
        ("rows", pa.int64()),
        ("reused", pa.bool_()),
        ("fault", pa.string()),  # code of what a sample of it was rejected for; null: the file is there
    ]
)


@dataclass(frozen=True)
class Shard:
    """One Parquet file to be written.

    Attributes:
        validated: of each sample, `source_sha256` and `masks_sha256` when it was looked at.
    """

    name: str
    tasks: tuple[Task, ...] = field(repr=False)
    validated: tuple[tuple[str, str], ...]
    inputs_sha256: str


def plan_shards(tasks: Sequence[Task], outcomes: Mapping[int, Mapping[str, Any]]) -> list[Shard]:
    """Deals the samples to files: split by split, sorted by patient, run and frame, so that the frames of a file of
    many frames are neighbours."""
    shards = []
    for split in SPLITS:
        own = [task for task in tasks if task.split == split]
        own.sort(
            key=lambda task: (task.identity.patient_id, task.identity.run_id, task.identity.frame, task.record.name)
        )
        for number, begin in enumerate(range(0, len(own), MAX_ROWS_PER_FILE)):
            part = tuple(own[begin : begin + MAX_ROWS_PER_FILE])
            rows = [outcomes[task.record.index] for task in part]
            shards.append(
                Shard(
                    name=f"{split}-{number:05d}.parquet",
                    tasks=part,
                    validated=tuple((row["source_sha256"], row["masks_sha256"]) for row in rows),
                    inputs_sha256=_inputs_sha256(rows),
                )
            )
    return shards


def write_shards(shards: Sequence[Shard], config: PrepareConfig) -> list[dict[str, Any]]:
    """Writes the files that are not there yet; returns `name, sha256, size, rows, reused` of each, by name.

    Raises:
        UserError: the source was changed since it was validated, or cannot be read any more.
    """
    written = list(map_items(partial(_write_shard, config=config), shards, _WRITTEN, 1, "write"))
    faults = [each["fault"] for each in written if each["fault"]]
    unread = faults.count(FILE_MISSING)
    if changed := len(faults) - unread:
        raise UserError(
            f"The source was changed while it was read: {changed} of {len(shards)} files could not be written as they "
            "were validated. Run the job again when the source is at rest."
        )
    if unread:
        raise UserError(
            f"{unread} of {len(shards)} files could not be written, since a file of a sample of theirs, which was "
            "validated, could not be read again: it is gone, or may not be read any more. Run the job again; what is "
            "written stays."
        )
    return sorted(written, key=lambda each: each["name"])


def to_quarantine_lines(rows: Iterable[Mapping[str, Any]], places: Mapping[int, Place]) -> bytes:
    """JSON lines of the rows whose verdict is quarantined, a finding each, with where they are in the source.

    Args:
        places: by `index`.
    """
    lines = [
        json.dumps(
            {
                "index": row["index"],
                "sample_id": row.get("sample_id"),
                **asdict(places[row["index"]]),
                "code": finding["code"],
                "reason": finding["detail"],
            }
        )
        for row in rows
        if row["split"] is None
        for finding in row["findings"]
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def check_replaceable(uri: str) -> None:
    """Refuses to write over anything that is not a prepared data set, complete or cut off.

    Raises:
        UserError: with the number of foreign files.
    """
    files = storage.list_files(uri)
    foreign = [name for name in files if not _OUR_FILE.fullmatch(name)]
    if foreign:
        raise UserError(
            f"`out` {uri} holds {len(foreign)} file(s), of {len(files)}, that no prepared data set has. "
            "Nothing was changed. Choose an empty folder or one that this job wrote."
        )


def clear(uri: str, keep: Iterable[str]) -> None:
    """Deletes the manifest, so that the folder is no data set any more, then all but the files to keep."""
    names = sorted(storage.list_files(uri).keys() - set(keep), key=lambda name: name != MANIFEST)
    storage.delete_files(uri, names)


def _inputs_sha256(rows: Iterable[Mapping[str, Any]]) -> str:
    columns = (
        "sample_id",
        "patient_id",
        "run_id",
        "frame",
        "split",
        "source_sha256",
        "pixels_sha256",
        "masks_sha256",
        "annotations_sha256",
        "pixel_spacing_mm",
    )
    return hashlib.sha256(
        json.dumps([__version__, str(SCHEMA), [[row[name] for name in columns] for row in rows]]).encode()
    ).hexdigest()


def _write_shard(shard: Shard, config: PrepareConfig) -> dict[str, Any]:
    uri = storage.join(config.out, shard.name)
    data = _read_finished(uri, shard.inputs_sha256)
    reused = data is not None
    if data is None:
        try:
            data = _encode(shard, config)
        except Rejected as rejected:
            return {"name": shard.name, "fault": rejected.code}
        storage.write_bytes(uri, data)
    sha256 = hashlib.sha256(data).hexdigest()
    return {"name": shard.name, "sha256": sha256, "size": len(data), "rows": len(shard.tasks), "reused": reused}


def _read_finished(uri: str, inputs_sha256: str) -> bytes | None:
    """A file that an earlier run wrote from the same inputs."""
    if not storage.exists(uri):
        return None
    data = storage.read_bytes(uri)
    try:
        metadata = pq.read_schema(io.BytesIO(data)).metadata or {}
    except pa.ArrowInvalid:
        return None
    return data if metadata.get(_INPUTS) == inputs_sha256.encode() else None


def _encode(shard: Shard, config: PrepareConfig) -> bytes:
    rows = [_row(task, validated, config) for task, validated in zip(shard.tasks, shard.validated, strict=True)]
    schema = SCHEMA.with_metadata({_INPUTS: shard.inputs_sha256})
    buffer = io.BytesIO()
    # In a row group of one row, statistics and a dictionary only repeat the values.
    with pq.ParquetWriter(buffer, schema, write_statistics=False, use_dictionary=False) as file:
        # Training reads rows in random order: with a row group for each, a row is one range read.
        file.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=1)
    return buffer.getvalue()


def _row(task: Task, validated: tuple[str, str], config: PrepareConfig) -> dict[str, Any]:
    checked = check_sample(task.record, config)
    if (checked.source_sha256, content_sha256(checked)) != validated:
        raise Rejected("changed", "The image or the label is not the one that was validated.")
    height, width = checked.pixels.shape[:2]
    return {
        **asdict(task.identity),
        "image": to_png(checked.pixels),
        "height": height,
        "width": width,
        "objects": to_objects(checked.masks),
        "annotators": [
            {"annotator": who, "objects": to_objects({phrase: mask for phrase, mask in masks.items() if mask.any()})}
            for who, masks in checked.by_annotator.items()
        ]
        or None,
        "ignored": None if checked.ignored is None else mask_to_rle(checked.ignored),
        "pixel_spacing_mm": checked.spacing and list(checked.spacing),
        "split": task.split,
        "source_sha256": checked.source_sha256,
        "annotations_sha256": list(task.record.provenance.annotations_sha256) if task.record.provenance else None,
    }
