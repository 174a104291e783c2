"""A prepared data set as nnU-Net v2 wants its raw data: an image and a label image of each case, `dataset.json`, and
our own splits.

A case is called `PATIENT_SAMPLE`, both pseudonyms. A pixel of a label image has one value, so where phrases overlap
each combination that occurs has a value of its own, and the phrases become regions, as nnU-Net calls sets of values.

Shapes: N objects of one image, H W its pixels.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SPLITS, decode_image, ignored_mask, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.images.decode import to_png
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.telemetry import LOGGER, Progress

DOCUMENT = "dataset.json"
SPLITS_FILE = "splits_final.json"
GREY = {"0": "grey"}
"""`channel_names` of images that have no colours."""
RESERVED = ("background", "ignore")
"""Names that nnU-Net gives a meaning of its own."""

_COLOURS = {"0": "R", "1": "G", "2": "B"}
_ENDING = ".png"
_WRITER, _US = "converted_by", "sa2va_ray"
_MAX_PHRASES = 62  # of an image: bits of a whole number
_MAX_VALUE = 255
_ROWS_AT_A_TIME = 16

_Phrases = frozenset[str]  # of one pixel


@dataclass(frozen=True)
class _Layout:
    """Attributes:
    values: phrases that share a pixel -> its value in label images.
    ignore: value of pixels that do not count; None where all do.
    is_grey: whether no image has colours.
    """

    values: Mapping[_Phrases, int]
    ignore: int | None
    is_grey: bool

    def labels(self) -> dict[str, int | list[int]]:
        """`labels` of dataset.json."""
        phrases = sorted(frozenset().union(*self.values))
        of_each = {phrase: [value for on, value in self.values.items() if phrase in on] for phrase in phrases}
        labels: dict[str, int | list[int]] = {"background": 0}
        labels |= {phrase: values if len(values) > 1 else values[0] for phrase, values in of_each.items()}
        return labels if self.ignore is None else labels | {"ignore": self.ignore}

    def regions(self) -> dict[str, list[int]]:
        """What dataset.json has to say besides, where phrases overlap: which value stands for each."""
        alone = [value for on, value in self.values.items() if len(on) == 1]
        return {"regions_class_order": alone} if len(self.values) > len(alone) + 1 else {}


def check_nnunet_folder(uri: str) -> None:
    """Refuses to write over anything but what `write_nnunet_layout` wrote.

    Raises:
        UserError: with the number of files that are there.
    """
    files = storage.list_files(uri)
    if files and not _is_ours(uri, files):
        raise UserError(
            f"{uri} holds {len(files)} file(s) that sa2va_ray did not write, or not to the end. Nothing was changed. "
            "Choose an empty folder, or delete it if it may go."
        )


def write_nnunet_layout(data_uri: str, uri: str) -> None:
    """Writes the samples of a prepared data set to a folder, `dataset.json` last. What an earlier call wrote there is
    replaced.

    Raises:
        UserError: no prepared data set, a folder of something else, or labels that nnU-Net cannot have.
    """
    manifest = read_manifest(data_uri, what="prepared data set")
    splits = {split: SampleIndex(data_uri, split) for split in SPLITS if manifest["counts"][split]["samples"]}
    check_nnunet_folder(uri)
    total = sum(map(len, splits.values()))
    with Progress("nnunet_layout", 2 * total) as progress:
        layout = _look(splits, progress)
        storage.delete_folder(uri)
        cases = {split: _write_split(index, split, uri, layout, progress) for split, index in splits.items()}
    if "val" in cases:
        _write_json(storage.join(uri, SPLITS_FILE), [{part: cases.get(part, []) for part in ("train", "val")}])
    else:
        LOGGER.warning(
            "%s has no validation split, so %s was not written: nnU-Net would deal images by itself, and the images of "
            "one patient to both sides.",
            data_uri,
            SPLITS_FILE,
        )
    document = {
        "channel_names": GREY if layout.is_grey else _COLOURS,
        "labels": layout.labels(),
        **layout.regions(),
        "numTraining": len(cases.get("train", [])) + len(cases.get("val", [])),
        "file_ending": _ENDING,
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        _WRITER: _US,
        "data_sha256": digest(manifest),
    }
    _write_json(storage.join(uri, DOCUMENT), document)


def _is_ours(uri: str, files: Mapping[str, int]) -> bool:
    if DOCUMENT not in files:
        return False
    try:
        content = json.loads(storage.read_bytes(storage.join(uri, DOCUMENT)))
    except ValueError:
        return False
    return isinstance(content, dict) and content.get(_WRITER) == _US


def _look(splits: Mapping[str, SampleIndex], progress: Progress) -> _Layout:
    """What there is in all samples, which the values of label images depend on."""
    combinations: set[_Phrases] = set()
    has_ignored, is_grey = False, True
    for index in splits.values():
        for sample in _samples(index):
            on_pixels, _ = _phrases_of_pixels(sample)
            combinations |= {*on_pixels} | {frozenset([each["phrase"]]) for each in sample["objects"]}
            has_ignored |= sample["ignored"] is not None
            is_grey &= _is_grey(np.asarray(decode_image(sample)))
            progress.step("looking")
    return _to_layout(combinations, has_ignored, is_grey)


def _to_layout(combinations: set[_Phrases], has_ignored: bool, is_grey: bool) -> _Layout:
    ordered = sorted(combinations | {frozenset()}, key=lambda on: (len(on), sorted(on)))
    values = {on: value for value, on in enumerate(ordered)}
    layout = _Layout(values, len(values) if has_ignored else None, is_grey)
    if reserved := set(RESERVED) & frozenset().union(*combinations):
        raise UserError(
            f"The phrase '{reserved.pop()}' means something else in nnU-Net's dataset.json. Give it another name with "
            "`classes` of jobs.prepare."
        )
    if len(values) + has_ignored > _MAX_VALUE + 1:
        raise UserError(
            f"{len(values) + has_ignored} values would be needed for the phrases and their overlaps, and a label image "
            f"of 8 bits has {_MAX_VALUE + 1}. Prepare the data set with fewer `classes`."
        )
    return layout


def _write_split(index: SampleIndex, split: str, uri: str, layout: _Layout, progress: Progress) -> list[str]:
    """Returns the names of the cases."""
    part = "Ts" if split == "test" else "Tr"
    cases = []
    for sample in _samples(index):
        case = f"{sample['patient_id']}_{sample['sample_id']}"
        pixels = np.asarray(decode_image(sample))
        image = to_png(pixels[..., 0] if layout.is_grey else pixels)
        storage.write_bytes(storage.join(uri, f"images{part}/{case}_0000{_ENDING}"), image)
        storage.write_bytes(storage.join(uri, f"labels{part}/{case}{_ENDING}"), to_png(_label(sample, layout)))
        cases.append(case)
        progress.step("writing")
    return cases


def _label(sample: Mapping[str, Any], layout: _Layout) -> np.ndarray:
    """(H, W) uint8"""
    on_pixels, places = _phrases_of_pixels(sample)
    label = np.array([layout.values[on] for on in on_pixels], np.uint8)[places]
    ignored = ignored_mask(sample)
    if ignored is not None:
        label[ignored] = layout.ignore
    return label


def _phrases_of_pixels(sample: Mapping[str, Any]) -> tuple[list[_Phrases], np.ndarray]:
    """The different sets of phrases that pixels have, and (H, W), which of them each pixel has. Those that do not count
    have none."""
    masks, ignored = object_masks(sample), ignored_mask(sample)
    if len(masks) > _MAX_PHRASES:
        raise UserError(f"An image has {len(masks)} phrases; this layout takes up to {_MAX_PHRASES}.")
    if ignored is not None:
        masks &= ~ignored
    codes = sum((mask.astype(np.int64) << bit for bit, mask in enumerate(masks)), np.zeros(masks.shape[1:], np.int64))
    present, places = np.unique(codes, return_inverse=True)
    phrases = [each["phrase"] for each in sample["objects"]]
    on_pixels = [
        frozenset(phrase for bit, phrase in enumerate(phrases) if code >> bit & 1) for code in present.tolist()
    ]
    return on_pixels, places.reshape(codes.shape)


def _is_grey(pixels: np.ndarray) -> bool:
    """Whether the channels of (H, W, 3) are equal."""
    return bool((pixels == pixels[..., :1]).all())


def _samples(index: SampleIndex) -> Iterator[dict[str, Any]]:
    for begin in range(0, len(index), _ROWS_AT_A_TIME):
        yield from index.read(np.arange(begin, min(begin + _ROWS_AT_A_TIME, len(index))))


def _write_json(uri: str, content: Any) -> None:
    storage.write_bytes(uri, (json.dumps(content, indent=2) + "\n").encode())
