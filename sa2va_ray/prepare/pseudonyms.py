"""Pseudonyms in place of the names of patients, recordings and files.

A pseudonym is a keyed hash: without the key nobody can find it by hashing all likely names. The same key gives the same
pseudonyms, so that a data set that has grown keeps its ids and its splits.
"""

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import PurePosixPath

from sa2va_ray.prepare.records import Record, Rejected
from sa2va_ray.telemetry import LOGGER

KEY_VARIABLE = "SA2VA_PSEUDONYM_KEY"

_NUM_HEX = 16
_MAX_DIGITS = 18  # a frame number is stored as int64


@dataclass(frozen=True)
class Identity:
    """What a sample has in place of its file name; the fields are columns of the sample."""

    sample_id: str
    patient_id: str
    run_id: str
    frame: int


class Pseudonyms:
    def __init__(self, key: bytes, patient_pattern: str) -> None:
        """`patient_pattern` is a regular expression for a path without suffix, see `PrepareConfig`."""
        self._key = key
        self._pattern = re.compile(patient_pattern)

    def identify(self, record: Record) -> Identity:
        """Identity of an image, from what its file says of itself, else from its path.

        Raises:
            Rejected: a path that does not match the pattern.
        """
        if record.patient is not None:
            patient, frame = record.patient, record.frame or 0
            run: tuple[str, ...] = (record.run or "",)
        else:
            groups = self._match(record.name)
            patient, frame = groups["patient"], _to_frame(groups.get("frame") or "0")
            run = (groups["patient"], groups.get("run") or "")  # a run is numbered within its patient
        return Identity(self._hash("sample", record.name), self.patient_id(patient), self._hash("run", *run), frame)

    def patient_id(self, patient: str) -> str:
        """Pseudonym of a patient's name in the source."""
        return self._hash("patient", patient)

    def _match(self, name: str) -> dict[str, str]:
        match = self._pattern.fullmatch(str(PurePosixPath(name).with_suffix("")))
        if not match:
            raise Rejected("name_mismatch", "The file's path does not match `patient_pattern`; the patient is unknown.")
        return match.groupdict()

    def _hash(self, *parts: str) -> str:
        return hmac.new(self._key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()[:_NUM_HEX]


def read_key() -> bytes:
    """The key from the environment, else a random one."""
    key = os.environ.get(KEY_VARIABLE, "")
    if key:
        return key.encode()
    LOGGER.info("%s is not set: a random key is used, ids and splits will not match those of another run", KEY_VARIABLE)
    return secrets.token_bytes(32)


def _to_frame(digits: str) -> int:
    if not digits.isdecimal() or len(digits) > _MAX_DIGITS:
        raise Rejected("name_mismatch", "In the path, group `frame` of `patient_pattern` is no whole number.")
    return int(digits)
