"""Splits by patient: a patient's split is a hash of its pseudonym, so it stays where it is when data is added."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SPLITS
from sa2va_ray.prepare.config import SplitConfig
from sa2va_ray.prepare.pseudonyms import Pseudonyms
from sa2va_ray.telemetry import LOGGER


class PatientSplits:
    """Deals patients to `train`, `val` and `test`.

    Raises:
        UserError: a list of splits that cannot be read.
    """

    def __init__(self, config: SplitConfig, pseudonyms: Pseudonyms) -> None:
        self._config = config
        self._listed = _read_list(config.list_uri, pseudonyms) if config.list_uri else None

    def split_of(self, patient_id: str) -> str | None:
        """Split of a patient; None where a list is used that does not name the patient."""
        if self._listed is not None:
            return self._listed.get(patient_id)
        config, place = self._config, self._place(patient_id, "")
        if place < config.test_fraction:
            return "test"
        if config.num_folds:
            # Another hash: the fold is independent of who is in the test split.
            return "val" if int(self._place(patient_id, ":fold") * config.num_folds) == config.fold else "train"
        return "val" if place < config.test_fraction + config.val_fraction else "train"

    def _place(self, patient_id: str, what: str) -> float:
        """Uniform in [0, 1)."""
        digest = hashlib.sha256(f"{self._config.seed}:{patient_id}{what}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64


def find_leaks(outcomes: pa.Table, near_pairs: Sequence[tuple[int, int]]) -> list[str]:
    """What stands in more than one split: patients, runs and near duplicates, a sentence each.

    Args:
        outcomes: with the columns `index, sample_id, patient_id, run_id, split`, null for samples that are left out.
        near_pairs: of values of `index`.
    """
    used = outcomes.filter(pc.is_valid(outcomes["split"]))
    leaks = []
    for column, what in (("patient_id", "Patient"), ("run_id", "Run")):
        splits = used.group_by(column).aggregate([("split", "distinct")]).to_pylist()
        leaks += [
            f"{what} {row[column]} is in {' and '.join(sorted(row['split_distinct']))}."
            for row in splits
            if len(row["split_distinct"]) > 1
        ]
    by_index = {row["index"]: row for row in used.select(["index", "sample_id", "split"]).to_pylist()}
    for one, other in near_pairs:
        if one in by_index and other in by_index and by_index[one]["split"] != by_index[other]["split"]:
            names = [f"{by_index[i]['sample_id']} ({by_index[i]['split']}, item {i})" for i in (one, other)]
            leaks.append(f"Samples {' and '.join(names)} are near duplicates.")
    return leaks


def check_splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Why one cannot train on these splits, empty where one can; warns of an empty val or test split.

    Args:
        counts: split -> {"samples", "patients", "objects"}.
    """
    patients = ", ".join(f"{split} {counts[split]['patients']}" for split in SPLITS)
    for split in ("val", "test"):
        if not counts[split]["samples"]:
            LOGGER.warning("split %s is empty (patients: %s); add patients or try another split.seed", split, patients)
    if counts["train"]["samples"]:
        return ""
    return (
        f"The split `train` is empty (patients: {patients}). There are too few patients for these fractions: add "
        "data, lower split.val_fraction and split.test_fraction, or try another split.seed."
    )


def _read_list(uri: str, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Pseudonym -> split. A name is put in as itself and as its pseudonym: the list may hold either."""
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError):
        raise UserError("`split.list_uri` is missing or no UTF-8 text. It is a CSV file: patient,split.") from None
    splits: dict[str, str] = {}
    for line, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        patient, split = row.get("patient"), row.get("split")
        if not patient or split not in SPLITS:
            raise UserError(f"Line {line} of `split.list_uri` does not give a patient and one of {', '.join(SPLITS)}.")
        for patient_id in (patient, pseudonyms.patient_id(patient)):
            if splits.setdefault(patient_id, split) != split:
                raise UserError(f"Line {line} of `split.list_uri` puts a patient of an earlier line in another split.")
    return splits
