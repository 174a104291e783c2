"""From a source to records: finds out which layouts it has, and puts together what their readers found."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.hub import HOW_WRITTEN, locate
from sa2va_ray.prepare.label_pattern import LABEL_PATTERN_AS_TYPED, LabelPattern
from sa2va_ray.prepare.records import Place, Quarantined, Record, Rejected
from sa2va_ray.prepare.sources.by_pattern import PatternPairs
from sa2va_ray.prepare.sources.datasets.read import DataSetFiles
from sa2va_ray.prepare.sources.dicom_frames import DicomFrames
from sa2va_ray.prepare.sources.folder import Folder, in_label_folder, label_keys
from sa2va_ray.prepare.sources.items import Item, Skipped, SourceOptions
from sa2va_ray.prepare.sources.json_labels.annotation_lists import UNRECOGNISED
from sa2va_ray.prepare.sources.json_labels.read import read_json_labels
from sa2va_ray.prepare.sources.listed_pairs import read_pairs
from sa2va_ray.prepare.sources.mask_images import LAYOUT as MASK_IMAGES
from sa2va_ray.prepare.sources.mask_images import MaskPairs, read_mask_images
from sa2va_ray.prepare.sources.negatives_list import check_no_labels, items_without_label, read_negatives_list

_PATH_TWICE = Rejected("path_twice", "Several items name this image; which is right is unknown. Keep one.")
_ORPHANS = {
    "orphan_image": "No annotation names this image file. Annotate it, take it out of the source, or list it in "
    "negatives_list if there is no object on it.",
    "orphan_label": "A label has no image in the source. Its name may be misspelt, or the image be missing.",
    "name_twice": "The names of two files differ in their Unicode form (NFC, NFD) only. Keep one.",
}


@dataclass(frozen=True)
class Source:
    """The items of a source. Their `index` counts from 0, in an order that the names of the files alone decide: the
    entries of JSON files as they stand there, file by file in the order of their paths; LabelMe files by path; images
    with a mask image by path; frames of DICOM files by path and number; images of known data sets, data set by data
    set, by path; images of `negatives_list` without a label by path; last the files that belong to no item: images
    without a label, labels without an image, names that differ in their Unicode form only, each by path.

    Attributes:
        layouts: layout -> number of its items, the bad ones included; orphans belong to none.
        records: in the order of their index.
        unread: suffix -> number of its files, which are of no kind that is read.
        files: names of all files, as `Place` counts them from 1.
        notes: what a user has to know of how it was read, without any name of a file.
    """

    layouts: dict[str, int]
    records: list[Record]
    quarantined: list[Quarantined]
    unread: dict[str, int]
    files: list[str] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def places(self) -> dict[int, Place]:
        """By index."""
        used = {each.index: each.place for each in self.records}
        return used | {each.index: each.place for each in self.quarantined}

    @property
    def num_items(self) -> int:
        """Orphans included."""
        return len(self.records) + len(self.quarantined)


def read_source(source: str, options: SourceOptions) -> Source:
    """Reads the annotations of a source, in an order that does not depend on how its files are listed.

    Args:
        source: a local folder, `s3://bucket/folder`, or a data set of the Hugging Face hub (`hub.py`).

    Raises:
        UserError: no such source, or none of the layouts that are read. It says what is there by kind, never by name.
    """
    folder = _open(source)
    found = _find(folder, options)
    negatives = read_negatives_list(folder, options.negatives_list, found.dicoms)
    check_no_labels(negatives, found.labels())
    labelled = {item.image for item in found.items} - found.dicoms
    unlabelled = items_without_label(negatives - labelled, found.negatives_of)
    found = replace(found, items=[*found.items, *unlabelled])
    orphans = [orphan for orphan in found.orphans if orphan.name not in negatives]
    orphans += [_Orphan("name_twice", name) for name in folder.clashes]
    orphans.sort(key=lambda orphan: (list(_ORPHANS).index(orphan.code), orphan.name))
    return _assemble(folder, found, orphans, negatives)


@dataclass(frozen=True)
class _Found:
    """Attributes:
    frames: those of files that are read as DICOM, whatever they are called.
    masks: mask images to compare other labels with.
    """

    items: list[Item]
    orphans: "list[_Orphan]"
    notes: list[str]
    frames: DicomFrames | None = None
    masks: MaskPairs | None = None
    data_sets: DataSetFiles | None = None

    @cached_property
    def dicoms(self) -> Set[str]:
        """Names of the files that are read as DICOM."""
        return set(self.frames.files) if self.frames else set()

    def labels(self) -> set[str | None]:
        """Names of the files that are no images."""
        named = {name for item in self.items for name in (item.document, item.field_of_view)}
        named |= {orphan.name for orphan in self.orphans if orphan.code == "orphan_label"}
        named |= self.masks.masks if self.masks else set()
        return named | (self.data_sets.labels if self.data_sets else set())

    def negatives_of(self, file: str) -> list[Item] | None:
        """Items of an image that is said to have no object, and is of a data set or DICOM; None for any other."""
        if self.frames and file in self.dicoms:
            return self.frames.negatives(file)
        item = self.data_sets.negative(file) if self.data_sets else None
        return None if item is None else [item]


def _find(folder: Folder, options: SourceOptions) -> _Found:
    if options.pairs:
        items, notes = read_pairs(folder, options.pairs, options)
        return _Found(items, [], notes)
    return _read_by_pattern(folder, options.label_pattern, options) if options.label_pattern else _look(folder, options)


def _read_by_pattern(folder: Folder, pattern: LabelPattern, options: SourceOptions) -> _Found:
    pairs = PatternPairs(folder, pattern, options)
    orphans = [_Orphan("orphan_image", name, pairs.reason) for name in pairs.lonely]
    return _Found(list(pairs.read()), orphans, pairs.notes)


def _look(folder: Folder, options: SourceOptions) -> _Found:
    """Finds out which layouts there are. Raises `UserError` for none."""
    items, lonely = read_json_labels(folder, options)
    named = {item.image for item in items if item.image is not None}
    has_masks = not lonely and not _are_recognised(items)
    data_sets = DataSetFiles(folder, named, options) if has_masks else None
    frames = DicomFrames(folder, named)
    pairs = MaskPairs(folder, named, frames.masks | (data_sets.files if data_sets else set()))
    if has_masks:
        items += read_mask_images(folder, pairs, options)
    items += frames.read(options)
    items += data_sets.read() if data_sets else ()
    if not lonely:
        _check_recognised(folder, items, data_sets.notes if data_sets else [])
    orphans = list(_find_orphans(items, pairs, frames.files))
    orphans += [_Orphan("orphan_label", name, reason) for name, reason in lonely.items()]
    if data_sets:
        orphans += [_Orphan("orphan_image", name) for name in data_sets.lonely_images]
        orphans += [_Orphan("orphan_label", name) for name in data_sets.lonely_labels]
    kept = [item for item in items if not isinstance(item.label, Skipped)]
    notes = list(data_sets.notes) if data_sets else []
    if num_skipped := len(items) - len(kept):
        notes.append(f"{num_skipped} task(s) of Label Studio that were only skipped there are left out.")
    return _Found(kept, orphans, notes, frames, pairs, data_sets)


def _open(source: str) -> Folder:
    uri = locate(source)
    if storage.is_local(uri) and not os.path.isdir(storage.resolve(uri)[1]):
        raise UserError(
            "`source` is not a folder that this machine sees. Check the path, and that its disk is mounted. "
            f"{HOW_WRITTEN}"
        )
    return Folder(uri)


@dataclass(frozen=True)
class _Orphan:
    """A file that no item is about."""

    code: str  # of `_ORPHANS`
    name: str
    reason: str = ""  # where there is a better one than that of the code

    def to_quarantined(self, index: int, folder: Folder) -> Quarantined:
        number = folder.number_of(self.name)
        place = Place(label_file=number) if self.code == "orphan_label" else Place(image_file=number)
        return Quarantined(index, self.code, self.reason or _ORPHANS[self.code], place)


def _find_orphans(items: Sequence[Item], pairs: MaskPairs, dicoms: Sequence[str]) -> Iterator[_Orphan]:
    """Masks of images are none: they are compared with."""
    used = {item.image for item in items}
    for name in pairs.images:
        if name not in used:
            is_label = in_label_folder(name) or len(label_keys(name)) > 1
            yield _Orphan("orphan_label" if is_label else "orphan_image", name)
    yield from (_Orphan("orphan_label", name) for name in pairs.lonely)
    yield from (_Orphan("orphan_image", name) for name in dicoms if name not in used)


def _assemble(folder: Folder, found: _Found, orphans: Sequence[_Orphan], negatives: Set[str]) -> Source:
    items, unread = found.items, folder.count_unread(found.dicoms)
    source = Source(dict(Counter(item.layout for item in items)), [], [], unread, folder.files, found.notes)
    times = Counter((item.image, item.frame) for item in items)
    for index, item in enumerate(items):
        rejected = item.label if isinstance(item.label, Rejected) else None
        if rejected is None and times[item.image, item.frame] > 1:
            rejected = _PATH_TWICE
        if rejected:
            source.quarantined.append(rejected.to_quarantined(index, _place(item, folder), _name(item)))
        else:
            record = _to_record(index, item, folder, found.masks)
            source.records.append(replace(record, is_listed_negative=item.image in negatives))
    source.quarantined.extend(orphan.to_quarantined(len(items) + at, folder) for at, orphan in enumerate(orphans))
    return source


def _place(item: Item, folder: Folder) -> Place:
    image, document = (name and folder.number_of(name) for name in (item.image, item.document))
    return Place(image or None, document or None, item.place)


def _name(item: Item) -> str | None:
    return item.image if item.frame is None else f"{item.image}#{item.frame}"


def _to_record(index: int, item: Item, folder: Folder, pairs: MaskPairs | None) -> Record:
    image, label = item.image, item.label
    assert image is not None
    assert not isinstance(label, Rejected | Skipped)
    is_frame = item.frame is not None
    masks = pairs.masks_of(image) if pairs and pairs.is_clear(image) and not is_frame else []
    return Record(
        index,
        f"{image}#{item.frame}" if is_frame else image,
        folder.uri_of(image),
        label,
        item.frame,
        mask_uri=folder.uri_of(masks[0]) if masks and item.layout != MASK_IMAGES else None,
        patient=item.patient,
        run=item.run,
        plain_name=item.plain_name,
        place=_place(item, folder),
        field_of_view_uri=item.field_of_view and folder.uri_of(item.field_of_view),
        provenance=item.provenance,
    )


def _are_recognised(items: Sequence[Item]) -> bool:
    return any(item.layout != UNRECOGNISED for item in items)


def _reason_of(item: Item) -> str:
    return item.label.reason if isinstance(item.label, Rejected) else ""


def _check_recognised(folder: Folder, items: Sequence[Item], notes: Sequence[str]) -> None:
    if _are_recognised(items):
        return
    broken = f", {len(items)} of the JSON files broken ({_reason_of(items[0])})" if items else ""
    raise UserError(
        f"`source` holds {folder.count_kinds()}{broken}, and none of the layouts that are read: annotations.json, "
        "LabelMe (a JSON file for each image), COCO instances, exports of Label Studio, mask images (folders "
        "`images` and `masks`, or names with `_mask`), DICOM files with mask images, the files of DRIVE, STARE, "
        "CHASE_DB1, HRF, DCA1, FIVES and nnU-Net. "
        "Point `source` at the folder that holds images and labels. Of labels with other names a pattern says whose "
        f"they are: {LABEL_PATTERN_AS_TYPED}, or a CSV list: pairs=/home/you/pairs.csv.{_unpacking_hint(folder)}"
        f"{''.join(f' {note}' for note in notes)}"
    )


def _unpacking_hint(folder: Folder) -> str:
    volumes = sum(name.lower().endswith((".nii", ".nii.gz")) for name in folder.names)
    packed = sum(name.lower().endswith(".gz") and not name.lower().endswith(".nii.gz") for name in folder.names)
    hints = []
    if volumes:
        hints.append(f"{volumes} files are volumes (.nii, .nii.gz), which are not read: write their slices as images.")
    if packed:
        hints.append(f"{packed} files are packed by gzip, and are not read so: unpack them with gunzip.")
    return "".join(f" {hint}" for hint in hints)
