"""Writes a prepared data set: Parquet files, quarantine.jsonl, and manifest.json last."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SCHEMA, SPLITS
from sa2va_ray.manifest import MANIFEST
from sa2va_ray.prepare.records import Quarantined

Counts = dict[str, dict[str, int]]  # split -> {"samples", "patients", "objects"}

QUARANTINE = "quarantine.jsonl"
MAX_ROWS_PER_FILE = 512

_OUR_FILES = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.parquet|{re.escape(QUARANTINE)}|{re.escape(MANIFEST)}")


class SampleWriter:
    """Writes samples to `{split}-{i:05d}.parquet` in a local folder and counts them. They must come split by split."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: pq.ParquetWriter | None = None
        self._split = ""
        self._samples = dict.fromkeys(SPLITS, 0)
        self._objects = dict.fromkeys(SPLITS, 0)
        self._patients: dict[str, set[str]] = {split: set() for split in SPLITS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file:
            self._file.close()

    def write(self, sample: pa.Table) -> None:
        """`sample`: one row with the columns of `SCHEMA`."""
        split = sample["split"][0].as_py()
        if self._file is None or split != self._split or self._samples[split] % MAX_ROWS_PER_FILE == 0:
            self._file = self._next_file(split)
        # Training reads rows in random order: with a row group for each, a row is one range read.
        self._file.write_table(sample, row_group_size=1)
        self._samples[split] += 1
        self._objects[split] += len(sample["objects"][0])
        self._patients[split].add(sample["patient_id"][0].as_py())

    def counts(self) -> Counts:
        return {
            split: {
                "samples": self._samples[split],
                "patients": len(self._patients[split]),
                "objects": self._objects[split],
            }
            for split in SPLITS
        }

    def _next_file(self, split: str) -> pq.ParquetWriter:
        if self._file:
            self._file.close()
        self._split = split
        name = f"{split}-{self._samples[split] // MAX_ROWS_PER_FILE:05d}.parquet"
        # In a row group of one row, statistics and a dictionary only repeat the values.
        return pq.ParquetWriter(self._folder / name, SCHEMA, write_statistics=False, use_dictionary=False)


def write_quarantine(folder: Path, quarantined: Iterable[Quarantined]) -> None:
    lines = [json.dumps(asdict(each)) + "\n" for each in sorted(quarantined, key=lambda each: each.index)]
    (folder / QUARANTINE).write_text("".join(lines))


def check_replaceable(uri: str) -> None:
    """Refuses to write over anything that is not a prepared data set, complete or cut off.

    Raises:
        UserError: with the number of foreign files.
    """
    files = storage.list_files(uri)
    foreign = [name for name in files if not _OUR_FILES.fullmatch(name)]
    if foreign:
        raise UserError(
            f"`out` {uri} holds {len(foreign)} file(s), of {len(files)}, that no prepared data set has. "
            "Nothing was changed. Choose an empty folder or one that this job wrote."
        )


def publish(folder: Path, uri: str) -> None:
    """Copies a finished local data set to `uri` in place of what is there."""
    storage.delete_folder(uri)
    storage.upload_folder(folder, uri, last=MANIFEST)
