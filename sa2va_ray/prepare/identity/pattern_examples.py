"""Patterns for `patient_pattern` that fit the paths of a source, for people who have to write one.

Only the patterns of the table are shown, with made-up paths beside them: the paths of the source name patients.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class _Example:
    pattern: str
    like: str
    """A made-up path that it matches."""


# The more a pattern tells of a path, the earlier it stands.
_EXAMPLES = (
    _Example(r"(?:.*/)?(?P<patient>[^_/]+)_(?P<run>[^_/]+)_(?P<frame>\d+)", "P4711_run2_012.png"),
    _Example(r"(?:.*/)?(?P<patient>[^/]+)/(?P<run>[^/]+)/[^/]*?(?P<frame>\d+)", "P4711/run2/image_012.png"),
    _Example(r"(?:.*/)?(?P<patient>[^/]+)/[^/]*?(?P<frame>\d+)", "P4711/image_012.png"),
    _Example(r"(?:.*/)?(?P<patient>[^_/]+)_(?P<frame>\d+)", "P4711_012.png"),
    _Example(r"(?:.*/)?(?P<patient>[^-/]+)-(?P<frame>\d+)", "P4711-012.png"),
    _Example(r"(?:.*/)?(?P<patient>[^/]+)/[^/]+", "P4711/left eye.png"),
    _Example(r"(?:.*/)?(?P<patient>[^/]+)/[^/]+/[^/]+", "P4711/visit 2/left eye.png"),
    _Example(r"(?:.*/)?(?P<patient>[^_/]+)_[^/]+", "P4711_left.png"),
    _Example(r"(?:.*/)?(?P<patient>[^-/]+)-[^/]+", "P4711-left.png"),
    _Example(r"(?:.*/)?[^_/]+_(?P<patient>[^_/]+)_[^/]+", "case_P4711_left.png"),
)
_PARTS = frozenset(["imagestr", "imagests", "train", "training", "test", "testing", "val", "valid", "validation"])
"""Folders of data sets that hold many patients each, in lower case."""
_EACH_ITS_OWN = _Example(r"(?:.*/)?(?P<patient>[^/]+)", "P4711.png")
_MAX_SHOWN = 3


def describe_fitting(names: Sequence[str], num_mismatched: int) -> str:
    """Sentences with the patterns that match all of these paths, the number of patients that each would find, and a
    made-up path of that form; the pattern that takes every file for a patient of its own comes last.

    Args:
        names: paths relative to the source, with suffix: those that a pattern has to match.
        num_mismatched: how many of them the present pattern does not match.
    """
    paths = [str(PurePosixPath(name).with_suffix("")) for name in names]
    fitting = [(example, patients) for example in _EXAMPLES if (patients := _num_patients(example, paths))]
    shown = [_describe(example, patients) for example, patients in fitting[:_MAX_SHOWN]]
    shown.append(f"{_describe(_EACH_ITS_OWN, len(set(paths)))}, only where no patient has two images")
    return (
        f"Of {len(paths)} path(s), {num_mismatched} do not match: rename these files, or choose a pattern that matches "
        f"all: {'; '.join(shown)}. The part that `patient` matches has to be the same for all images of a patient and "
        "different for two patients."
    )


def _describe(example: _Example, num_patients: int) -> str:
    return f"patient_pattern='{example.pattern}' for paths like {example.like} ({num_patients} patient(s) here)"


def _num_patients(example: _Example, paths: Sequence[str]) -> int:
    """How many patients a pattern finds, 0 where it does not match all paths, takes all for one patient's (a folder
    such as `images` is none), or takes a part of a data set for one."""
    pattern = re.compile(example.pattern)
    patients = set()
    for path in paths:
        match = pattern.fullmatch(path)
        if not match or match["patient"].casefold() in _PARTS:
            return 0
        patients.add(match["patient"])
    return len(patients) if len(patients) > 1 or len(paths) == 1 else 0
