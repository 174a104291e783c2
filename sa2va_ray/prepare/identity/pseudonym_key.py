"""The secret key that pseudonyms are made with: where it is found, and what it means to have none."""

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.telemetry import LOGGER

KEY_VARIABLE = "SA2VA_PSEUDONYM_KEY"
KEY_FILE_VARIABLE = "SA2VA_PSEUDONYM_KEY_FILE"

WITHOUT_A_KEY = (
    "No pseudonym key was given, so a random one was used and thrown away: these pseudonyms and this split cannot be "
    "made again. When the data grow, patients that are tested on today may be trained on tomorrow. Make a key once, "
    "and keep it: (umask 077; openssl rand -hex 32 > ~/.sa2va_pseudonym_key). Then give "
    "pseudonym_key_file=/home/YOU/.sa2va_pseudonym_key, a file of the machine that the job runs on: the cluster's head "
    "for a submitted job. docs/en/prepare.md says more."
)
"""Said at the start of a job, at its end and in its report."""


@dataclass(frozen=True)
class PseudonymKey:
    value: bytes = field(repr=False)
    is_kept: bool
    """False: random, so that no other run has it."""


def read_key(key_file: str | None) -> PseudonymKey:
    """The key of `key_file`, else of the environment (`SA2VA_PSEUDONYM_KEY`, then the file that
    `SA2VA_PSEUDONYM_KEY_FILE` names), else a random one, with a warning.

    Raises:
        UserError: a file that cannot be read, is empty, or that other users of the machine may read.
    """
    if key_file is not None:
        return PseudonymKey(_read_file(key_file, "pseudonym_key_file"), is_kept=True)
    if key := os.environ.get(KEY_VARIABLE, "").strip():  # what Kubernetes takes from a file ends with its line end
        return PseudonymKey(key.encode(), is_kept=True)
    if path := os.environ.get(KEY_FILE_VARIABLE):
        return PseudonymKey(_read_file(path, KEY_FILE_VARIABLE), is_kept=True)
    LOGGER.warning("WARNING: %s", WITHOUT_A_KEY)
    return PseudonymKey(secrets.token_bytes(32), is_kept=False)


def _read_file(name: str, said_by: str) -> bytes:
    """The content without the line end, so that `$(cat FILE)` in the environment is the same key."""
    path = Path(storage.resolve(name)[1])
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = path.read_bytes().strip()
    except OSError as error:
        raise UserError(
            f"The key file of {said_by} cannot be read on the machine that the job runs on ({os.uname().nodename}): "
            f"{error.strerror}. A submitted job runs on the cluster's head: put the file there. Who has none yet makes "
            "it, once: (umask 077; openssl rand -hex 32 > FILE)."
        ) from None
    if mode & 0o077:
        raise UserError(
            f"The key file of {said_by} has mode {mode:04o}, so other users of {os.uname().nodename} may read the key. "
            "Run `chmod 600` on it, and make a new key if somebody may have read this one."
        )
    if not key:
        raise UserError(f"The key file of {said_by} is empty. Fill it with: openssl rand -hex 32")
    return key
