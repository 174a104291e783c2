"""From a source to records: finds out which layouts it has, and puts together what their readers found."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sa2va_ray.config import UserError
from sa2va_ray.prepare.records import Quarantined, Record, Rejected
from sa2va_ray.prepare.sources.annotation_lists import UNRECOGNISED
from sa2va_ray.prepare.sources.dicom_frames import DicomFrames
from sa2va_ray.prepare.sources.folder import Folder, in_label_folder, label_keys
from sa2va_ray.prepare.sources.items import Item, SourceOptions
from sa2va_ray.prepare.sources.json_labels import read_json_labels
from sa2va_ray.prepare.sources.location import locate
from sa2va_ray.prepare.sources.mask_images import LAYOUT as MASK_IMAGES
from sa2va_ray.prepare.sources.mask_images import MaskPairs, read_mask_images

_PATH_TWICE = Rejected("path_twice", "Several items name this image; which is right is unknown. Keep one.")
_ORPHANS = {
    "orphan_image": "No annotation names this image file. Annotate it, or take it out of the source.",
    "orphan_label": "A label has no image in the source. Its name may be misspelt, or the image be missing.",
    "name_twice": "The names of two files differ in their Unicode form (NFC, NFD) only. Keep one.",
}


@dataclass(frozen=True)
class Source:
    """Attributes:
    layouts: layout -> number of its items, the bad ones included; orphans belong to none.
    records: in the order of their index.
    """

    layouts: dict[str, int]
    records: list[Record]
    quarantined: list[Quarantined]

    @property
    def num_items(self) -> int:
        """Orphans included."""
        return len(self.records) + len(self.quarantined)


def read_source(source: str, options: SourceOptions) -> Source:
    """Reads the annotations of a source, in an order that does not depend on how its files are listed.

    Args:
        source: a local folder, `s3://bucket/folder`, or a data set of the Hugging Face hub, `owner/name[@revision]`.

    Raises:
        UserError: no such source, or none of the layouts that are read. It says what is there by kind, never by name.
    """
    folder = Folder(locate(source))
    items, num_lonely = read_json_labels(folder, options)
    named = {item.image for item in items if item.image is not None}
    frames = DicomFrames(folder, named)
    pairs = MaskPairs(folder, named, frames.masks)
    if not num_lonely and not _are_recognised(items):
        items += read_mask_images(folder, pairs, options)
    items += frames.read(options)
    if not num_lonely:
        _check_recognised(folder, items)
    orphans = Counter(_find_orphans(items, pairs, frames.files))
    orphans.update(orphan_label=num_lonely, name_twice=folder.clashes)
    return _assemble(folder, items, pairs, orphans)


def _find_orphans(items: Sequence[Item], pairs: MaskPairs, dicoms: Sequence[str]) -> Iterator[str]:
    """A code of `_ORPHANS` for each file that no item is about. Masks of images are not: they are compared with."""
    used = {item.image for item in items}
    for name in pairs.images:
        if name not in used:
            yield "orphan_label" if in_label_folder(name) or len(label_keys(name)) > 1 else "orphan_image"
    yield from ("orphan_label" for _ in pairs.lonely)
    yield from ("orphan_image" for name in dicoms if name not in used)


def _assemble(folder: Folder, items: Sequence[Item], pairs: MaskPairs, orphans: Counter[str]) -> Source:
    source = Source(dict(Counter(item.layout for item in items)), [], [])
    times = Counter((item.image, item.frame) for item in items)
    for index, item in enumerate(items):
        if isinstance(item.label, Rejected):
            source.quarantined.append(item.label.to_quarantined(index))
        elif times[item.image, item.frame] > 1:
            source.quarantined.append(_PATH_TWICE.to_quarantined(index))
        else:
            source.records.append(_to_record(index, item, folder, pairs))
    codes = [code for code in _ORPHANS for _ in range(orphans[code])]
    source.quarantined.extend(Quarantined(len(items) + at, code, _ORPHANS[code]) for at, code in enumerate(codes))
    return source


def _to_record(index: int, item: Item, folder: Folder, pairs: MaskPairs) -> Record:
    image, label = item.image, item.label
    assert image is not None
    assert not isinstance(label, Rejected)
    if item.frame is not None:
        name = f"{image}#{item.frame}"
        return Record(index, name, folder.uri_of(image), label, item.frame, patient=item.patient, run=item.run)
    has_mask = item.layout != MASK_IMAGES and pairs.is_clear(image)
    mask_uri = folder.uri_of(pairs.masks_of(image)[0]) if has_mask else None
    return Record(index, image, folder.uri_of(image), label, mask_uri=mask_uri)


def _are_recognised(items: Sequence[Item]) -> bool:
    return any(item.layout != UNRECOGNISED for item in items)


def _check_recognised(folder: Folder, items: Sequence[Item]) -> None:
    if _are_recognised(items):
        return
    broken = f", {len(items)} of the JSON files broken" if items else ""
    raise UserError(
        f"`source` holds {folder.count_kinds()}{broken}, and none of the layouts that are read: annotations.json, "
        "LabelMe (a JSON file for each image), COCO instances, mask images (folders `images` and `masks`, or names "
        "with `_mask`), DICOM files with mask images. Point `source` at the folder that holds images and labels."
    )
