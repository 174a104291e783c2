"""Brings the predictions and their images together again, and says of each image whose it is."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.images.files import kind_of
from sa2va_ray.labelling.ranking import Candidate
from sa2va_ray.predict.job.items import ImageItem
from sa2va_ray.predict.job.results import RESULT_SCHEMA, TABLE
from sa2va_ray.prepare.identity.patient_pattern import PatientPaths
from sa2va_ray.prepare.identity.pattern_examples import describe_fitting

_SHOWN_BY_BROWSERS = ("PNG", "JPEG", "BMP", "GIF", "WebP")


@dataclass(frozen=True)
class Predictions:
    """What one run of `jobs.predict` wrote.

    Attributes:
        rows: by id of the image, those without an error.
        sha256: of the file that they are in.
        model, model_sha256, prompt: of all rows.
    """

    rows: dict[str, dict[str, Any]]
    sha256: str
    model: str
    model_sha256: str
    prompt: str


def read_predictions(uri: str) -> Predictions:
    """
    Raises:
        UserError: no results, unfinished ones, ones of an older version or of a model without a hash.
    """
    table = storage.join(uri, TABLE)
    if not storage.exists(table):
        raise UserError(
            f"`predictions` {uri} has no {TABLE}, which jobs.predict writes at its end. Give the `out` of a run that "
            "has ended; the same command goes on with one that was stopped."
        )
    data = storage.read_bytes(table)
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    if rows and (missing := set(RESULT_SCHEMA.names) - rows[0].keys()):
        raise UserError(
            f"The predictions lack {', '.join(sorted(missing))}: an older version made them. Start the same "
            "jobs.predict again: it makes them anew."
        )
    good = {row["id"]: row for row in rows if row["error"] is None}
    made_by = {(row["model"], row["model_sha256"], row["prompt"]) for row in good.values()}
    if len(made_by) != 1:
        raise UserError(
            f"Of {len(rows)} predictions {len(good)} have no error, by {len(made_by)} different models or prompts; "
            "those of one are needed."
        )
    model, sha256, prompt = made_by.pop()
    if sha256 is None:
        raise UserError(
            "The model of these predictions has no manifest, so that no label could be traced to it. Export it with "
            "jobs.export, and predict with what that writes."
        )
    return Predictions(good, hashlib.sha256(data).hexdigest(), model, sha256, prompt)


def find_candidates(
    items: Sequence[ImageItem], predictions: Predictions, patient_pattern: str
) -> tuple[list[Candidate], Counter[str]]:
    """The images that can be labelled, and how many cannot, by the reason.

    Raises:
        UserError: no image is left, or paths do not tell whose their images are.
    """
    left_out: Counter[str] = Counter()
    usable: dict[str, ImageItem] = {}
    for item in items:
        if reason := _unusable(item, usable, predictions):
            left_out[reason] += 1
        else:
            usable[item.id] = item
    if not usable:
        reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(f"None of the {len(items)} images in `source` can be queued: {reasons}.")
    patients = _patients([item.source.name for item in usable.values()], patient_pattern)
    rows = predictions.rows
    found = zip(usable.values(), patients, strict=True)
    return [Candidate(item, patient, rows[item.id]) for item, patient in found], left_out


def _unusable(item: ImageItem, usable: dict[str, ImageItem], predictions: Predictions) -> str:
    if item.frame is not None or item.row is not None or kind_of(item.source.name) not in _SHOWN_BY_BROWSERS:
        return f"of a kind that Label Studio does not show as a file ({', '.join(_SHOWN_BY_BROWSERS)})"
    if item.id not in predictions.rows:
        return "without a prediction, or with one that failed"
    return "the same as another, byte for byte" if item.id in usable else ""


def _patients(names: Sequence[str], pattern: str) -> Iterator[str]:
    paths = PatientPaths(pattern)
    matches = [paths.match(name) for name in names]
    if mismatched := sum(groups is None for groups in matches):
        raise UserError(
            "`patient_pattern` does not tell whose the images are, so that the queue could not be spread over "
            f"patients. {describe_fitting(names, mismatched)}"
        )
    return (groups["patient"] for groups in matches if groups)
