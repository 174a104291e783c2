"""What the readers of the layouts take and give."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from sa2va_ray.prepare.classes import Classes
from sa2va_ray.prepare.label_pattern import LabelPattern
from sa2va_ray.prepare.records import Label, Provenance, Rejected, SeveralLabels

if TYPE_CHECKING:
    from sa2va_ray.prepare.sources.folder import Folder


@dataclass(frozen=True)
class SourceOptions:
    """Attributes:
    phrase: what the objects are called where the annotation does not say it.
    mask_threshold: grey value from which a pixel of a mask image counts; None leaves it to `decode_mask_bytes`.
    max_pixels: largest H * W of a mask.
    ignore_labels: objects of these names are left out, whatever their shape.
    on_crowd, annotators: see `PrepareConfig`.
    classes: what the labels and mask values mean; None: labels are phrases, and masks of one class.
    label_pattern: where given, it alone says which labels there are.
    pairs: URI of the CSV file that names images and labels; where given, it alone says which there are.
    patients_of_data_sets: whether known data sets tell the patients, as no pattern does.
    negatives_list: URI of the text file that names images without objects.
    """

    phrase: str
    mask_threshold: int | None
    max_pixels: int
    ignore_labels: frozenset[str] = frozenset()
    on_crowd: Literal["quarantine", "ignore", "use"] = "quarantine"
    classes: Classes | None = None
    patients_of_data_sets: bool = True
    label_pattern: LabelPattern | None = None
    pairs: str | None = None
    negatives_list: str | None = None
    annotators: Literal["refuse", "majority", "staple"] = "refuse"


@dataclass(frozen=True)
class DocumentLayout:
    """A layout whose labels are in one JSON file, by whatever name.

    Attributes:
        is_own: whether the content of a JSON file is of this layout.
        read: name of the file in the folder, and its content -> the items.
        example: what the content looks like, for people.
    """

    is_own: Callable[[Any], bool]
    read: Callable[["Folder", str, Any, SourceOptions], Iterable["Item"]]
    example: str


class Skipped:
    """In place of a label: people have looked at the image, and chose not to annotate it."""


@dataclass(frozen=True)
class Item:
    """An annotation that was found; together with the places of others it becomes a `Record` or is quarantined."""

    layout: str
    image: str | None = field(repr=False)  # name in the folder; None: not known
    label: Label | SeveralLabels | Rejected | Skipped = field(repr=False)
    frame: int | None = None  # from 0
    patient: str | None = field(default=None, repr=False)
    run: str | None = field(default=None, repr=False)
    plain_name: str | None = field(default=None, repr=False)
    """`image` without what a tool put into it; it tells the patient."""
    field_of_view: str | None = field(default=None, repr=False)
    """Mask image of what the camera saw."""
    provenance: Provenance | None = None
    document: str | None = field(default=None, repr=False)
    """Name of the label file."""
    place: str | None = None
    """Where in the label file it stands, as jq would say it: `.images[4]`."""

    def at(self, document: str, place: str | None) -> Self:
        return replace(self, document=document, place=place)

    def called(self, plain_name: str) -> Self:
        return replace(self, plain_name=plain_name)


def build_item(layout: str, find_image: Callable[[], str], annotate: Callable[[], Label | SeveralLabels]) -> Item:
    """What is rejected becomes an item that says why. Its image, if that was found, is named all the same."""
    image = None
    try:
        image = find_image()
        return Item(layout, image, annotate())
    except Rejected as rejected:
        return Item(layout, image, rejected.with_traceback(None))  # which would hold on to the content of the item
