"""How the path of an image tells whose it is."""

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

DEFAULT_PATIENT_PATTERN = r"(?:.*/)?(?P<patient>[^_/]+)_frame_(?P<frame>\d+)"


def match_path(pattern: re.Pattern[str], name: str) -> dict[str, str] | None:
    """The groups of a pattern in the whole path of a file, without its suffix; None where it does not match."""
    match = pattern.fullmatch(str(PurePosixPath(name).with_suffix("")))
    return match.groupdict() if match else None


def _has_patient(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if "patient" not in groups:
        raise ValueError("has no group (?P<patient>...), so images could not be split by patient")
    return pattern


PatientPattern = Annotated[str, AfterValidator(_has_patient)]
"""A config's regular expression with a group `patient`."""
