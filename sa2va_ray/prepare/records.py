"""What a reader makes of a source: a record per image, or the reason why an image goes to quarantine.

Names of the source carry patient names. They are in `Record` because the work needs them, and out of its `repr`;
reasons never hold them.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Record:
    """An annotated image of the source, not yet opened."""

    index: int  # place in the source's list
    name: str = field(repr=False)  # path relative to the source folder: what pseudonyms are made from
    image: Path = field(repr=False)  # absolute
    objects: dict[str, list[np.ndarray]] = field(repr=False)  # phrase -> its polygons, (P, 2) x, y in pixel centres


@dataclass(frozen=True)
class Quarantined:
    """A sample that is left out: a line of quarantine.jsonl."""

    index: int  # place in the source's list
    code: str  # short name of the reason, to count by
    reason: str  # the reason in a sentence


class Rejected(Exception):
    """Raised by a check that a sample does not pass, caught where the samples are gone through."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def to_quarantined(self, index: int) -> Quarantined:
        return Quarantined(index, self.code, self.reason)
