"""The one file that tells which file of the source an item is: for the user alone, and only where the user asks."""

import csv
import io
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.prepare.checks.duplicates import IMAGE_TWICE
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.sources import Source
from sa2va_ray.telemetry import LOGGER

HEADER = ("item", "source_file", "label_file", "status", "reason", "sample_id")
_ENCODING = "utf-8-sig"  # with its mark, without which Excel takes it for the encoding of the country
_STATUS = {"ok": "kept", "repaired": "kept, repaired", "quarantined": "quarantined"}


def check_place(uri: str, config: PrepareConfig) -> None:
    """
    Raises:
        UserError: a path within `out` or `source`, in a folder that is not there or cannot be written to, or one of a
            file that is no such table.
    """
    storage.check_outside(uri, {"out": config.out, "source": config.source}, key="private_table")
    path = _path(uri)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"The folder of `private_table` is missing or cannot be written to, on {os.uname().nodename}, where the "
            "job runs. Make it, or choose another; a submitted job runs on the cluster's head."
        )
    if path.exists() and not (path.is_file() and _is_ours(path)):
        raise UserError("`private_table` is something else already, and would be lost. Choose another name.")


def write(uri: str, source: Source, outcomes: Mapping[int, Mapping[str, Any]]) -> None:
    """Writes the table, a line for each item of the source, with mode 0600 from the first byte on.

    Args:
        outcomes: index -> row of `examine.SCHEMA`.
    """
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(HEADER)
    table.writerows(_rows(source, outcomes))
    path = _path(uri)
    written = path.with_name(f".{uuid.uuid4().hex}{storage.PARTIAL}")
    with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.getvalue().encode(_ENCODING))
    written.replace(path)
    LOGGER.info("private table of %d items written to %s on %s", len(outcomes), path, os.uname().nodename)


def _rows(source: Source, outcomes: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    named = {each.index: each.name for each in source.quarantined} | {each.index: each.name for each in source.records}
    for index, place in sorted(source.places.items()):
        row = outcomes[index]
        image, label = (number and source.files[number - 1] for number in (place.image_file, place.label_file))
        reason = "; ".join(f"{each['code']}: {each['detail']}" for each in row["findings"])
        label_item = f"{label or ''}{f' {place.item}' if place.item else ''}"
        # `name` has the number of the frame, too, where a file has several.
        yield index, named[index] or image or label, label_item, _status(row), reason, row.get("sample_id") or ""


def _status(row: Mapping[str, Any]) -> str:
    is_duplicate = any(each["code"] == IMAGE_TWICE for each in row["findings"])
    return "duplicate" if is_duplicate else _STATUS[row["verdict"]]


def _path(uri: str) -> Path:
    return Path(storage.resolve(uri)[1])


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().strip() == ",".join(HEADER).encode(_ENCODING)
