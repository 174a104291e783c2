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

from sa2va_ray.prepare.records import Rejected
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
        """`patient_pattern` is a regular expression for the stem of a file name, see `PrepareConfig`."""
        self._key = key
        self._pattern = re.compile(patient_pattern)

    def identify(self, name: str) -> Identity:
        """Identity of an image, from its path relative to the source folder.

        Raises:
            Rejected: a file name that does not match the pattern.
        """
        match = self._pattern.fullmatch(PurePosixPath(name).stem)
        if not match:
            raise Rejected("name_mismatch", "The file name does not match `patient_pattern`; the patient is unknown.")
        groups = match.groupdict()
        return Identity(
            sample_id=self._hash("sample", name),
            patient_id=self._hash("patient", groups["patient"]),
            run_id=self._hash("run", groups["patient"], groups.get("run") or ""),
            frame=_to_frame(groups.get("frame") or "0"),
        )

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
        raise Rejected("name_mismatch", "In the file name, group `frame` of `patient_pattern` is no whole number.")
    return int(digits)
