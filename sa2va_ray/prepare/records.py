"""What a reader makes of a source: a record per image, or the reason why an image goes to quarantine.

Names of the source carry patient names. They are in `Record` because the work needs them, and out of its `repr`;
reasons and findings never hold them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = np.ndarray | dict[str, Any]
"""A polygon, (P, 2) float x, y in pixel centres, or a COCO RLE `{"size": [H, W], "counts": str}`."""


@dataclass(frozen=True)
class Finding:
    """What was found wrong with a sample that is used all the same, after the repair that `detail` tells."""

    code: str  # short name, to count by
    detail: str  # a sentence, without any name of the source


@dataclass(frozen=True)
class Annotation:
    """The objects of one image; it may have none."""

    objects: dict[str, list[Shape]] = field(repr=False)  # phrase -> its shapes, to be united
    size: tuple[int, int] | None = None  # (H, W) of the frame that the shapes are drawn in; None: not stated
    findings: tuple[Finding, ...] = ()
    is_exact: bool = False  # whether the image must have `size`: a mask is for its very pixels
    ignored: tuple[Shape, ...] = field(default=(), repr=False)  # regions that are neither objects nor background


@dataclass(frozen=True)
class Place:
    """Where a person finds an item in the source again, in numbers: names of files may name patients.

    Attributes:
        image_file, label_file: see `Folder.number_of`; None where there is none.
        item: place in the label file, as jq would say it (`.images[4]`); None where the file is about one image.
    """

    image_file: int | None = None
    label_file: int | None = None
    item: str | None = None


@dataclass(frozen=True)
class LabelFile:
    """An annotation in a file of its own, read where the image is read."""

    uri: str = field(repr=False)
    read: Callable[[bytes, str], Annotation]
    """A function of a module: (bytes of the file, phrase) -> annotation. Raises `Rejected`."""
    phrase: str


Label = Annotation | LabelFile


@dataclass(frozen=True)
class SeveralLabels:
    """What several annotators say of one image.

    Attributes:
        by_annotator: what the source calls an annotator, or the pseudonym -> the label; of two annotators at least.
        findings: what is about none of them alone.
    """

    by_annotator: Mapping[str, Label] = field(repr=False)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Provenance:
    """Where the label of an image came from, in a tool that keeps an account of it.

    Attributes:
        annotations_sha256: of the annotations that it was made of, a hash of each one's id.
        lead_time_s: how long people had the task open; None where the tool does not tell.
        model_version: of our model that drew first; None where people began with nothing.
        prediction: what it drew; None where it cannot be read.
    """

    annotations_sha256: tuple[str, ...]
    lead_time_s: float | None = None
    model_version: str | None = None
    prediction: Annotation | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Record:
    """An annotated image of the source, not yet opened."""

    index: int  # place in the source's list
    name: str = field(repr=False)  # path relative to the source, unique: what pseudonyms are made from
    image_uri: str = field(repr=False)
    label: Label | SeveralLabels = field(repr=False)
    frame: int | None = None  # which frame of a multi-frame file, from 0
    mask_uri: str | None = field(default=None, repr=False)
    """A mask image of the same objects, with which the polygons are compared."""
    patient: str | None = field(default=None, repr=False)
    run: str | None = field(default=None, repr=False)
    """Where the file itself tells them (DICOM); elsewhere they are found in `name` by the config's pattern."""
    plain_name: str | None = field(default=None, repr=False)
    """`name` without what a tool put into it, where it did: what the pattern is held against."""
    is_listed_negative: bool = False
    """Whether the user has listed the image as one without objects."""
    place: Place = Place()
    provenance: Provenance | None = None
    field_of_view_uri: str | None = field(default=None, repr=False)
    """A mask image of what the camera saw: outside of it nothing is known, and nothing to be learnt."""


@dataclass(frozen=True)
class Quarantined:
    """A sample that is left out: a line of quarantine.jsonl."""

    index: int  # place in the source's list
    code: str  # short name of the reason, to count by
    reason: str  # the reason in a sentence, without any name of the source
    place: Place = Place()
    name: str | None = field(default=None, repr=False)  # as in `Record`, where it is known
    sample_id: str | None = None  # pseudonym of `name`


class Rejected(Exception):
    """Raised by a check that a sample does not pass, caught where the samples are gone through."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.seen: dict[str, Any] = {}  # what was measured before: columns of an outcome

    def to_quarantined(self, index: int, place: Place = Place(), name: str | None = None) -> Quarantined:
        return Quarantined(index, self.code, self.reason, place, name)
