"""How the path of an image tells whose it is."""

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from sa2va_ray.patterns import PathPattern

DEFAULT_PATIENT_PATTERN = r"(?:.*/)?(?P<patient>[^_/]+)_frame_(?P<frame>\d+)"


class PatientPaths:
    """A `patient_pattern`, see `PrepareConfig`, held against paths."""

    def __init__(self, patient_pattern: str) -> None:
        self._pattern = PathPattern(patient_pattern, "patient_pattern")

    def match(self, name: str) -> dict[str, str] | None:
        """The groups in the whole path of a file, without its suffix; None where it does not match, or names no
        patient."""
        groups = self._pattern.match(str(PurePosixPath(name).with_suffix("")))
        return groups if groups and groups.get("patient") else None


def _has_patient(pattern: str) -> str:
    if "patient" not in PathPattern(pattern, "patient_pattern").groups:
        raise ValueError("has no group (?P<patient>...), so images could not be split by patient")
    return pattern


PatientPattern = Annotated[str, AfterValidator(_has_patient)]
"""A config's regular expression with a group `patient`."""
