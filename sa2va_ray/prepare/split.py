"""Splits by patient: a patient's split is a hash of its pseudonym, so it stays where it is when data is added."""

import hashlib
from collections.abc import Mapping

from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SPLITS
from sa2va_ray.telemetry import LOGGER


def split_of(patient_id: str, seed: int, val_fraction: float, test_fraction: float) -> str:
    """`train`, `val` or `test`; each fraction is the probability of a patient to be there."""
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < test_fraction:
        return "test"
    return "val" if place < test_fraction + val_fraction else "train"


def check_splits(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Warns of an empty val or test split. `counts`: split -> {"samples", "patients", "objects"}.

    Raises:
        UserError: nothing to train on.
    """
    patients = ", ".join(f"{split} {counts[split]['patients']}" for split in SPLITS)
    if not counts["train"]["samples"]:
        raise UserError(
            f"The split `train` is empty (patients: {patients}). There are too few patients for these fractions: add "
            "data, lower val_fraction and test_fraction, or try another split_seed."
        )
    for split in ("val", "test"):
        if not counts[split]["samples"]:
            LOGGER.warning("split %s is empty (patients: %s); add patients or try another split_seed", split, patients)
