"""Copies of data sets and models in which something was changed, with manifests that are right again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sa2va_ray import storage
from sa2va_ray.data.sample import SCHEMA
from sa2va_ray.manifest import MANIFEST, write_manifest
from sa2va_ray.models.model_manifest import MODEL_MANIFEST


def copy_data(uri: str, folder: Path, split: str, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> str:
    """`change(number, sample)` is made to each sample of a split."""
    storage.download_folder(uri, folder)
    number = 0
    for file in sorted(folder.glob(f"{split}-*.parquet")):
        rows = []
        for row in pq.read_table(file).to_pylist():
            rows.append(change(number, row))
            number += 1
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file, row_group_size=1)
    return _seal(folder, MANIFEST)


def copy_model(uri: str, folder: Path, **facts: Any) -> str:
    storage.download_folder(uri, folder)
    return _seal(folder, MODEL_MANIFEST, **facts)


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _seal(folder: Path, manifest_name: str, **facts: Any) -> str:
    manifest = json.loads((folder / manifest_name).read_text())
    files = manifest.pop("files")
    known = {*files, manifest_name}
    for extra in [file for file in folder.rglob("*") if file.is_file() and _name(file, folder) not in known]:
        extra.unlink()
    write_manifest(folder, manifest | facts, manifest_name)
    return str(folder)
