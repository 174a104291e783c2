"""Opens and checks one image with its label.

Everything that can be wrong with one sample is raised as `Rejected`, so that no exception of a library, whose message
may hold a path, leaves a Ray task.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.conversation import SEG, evaluation_prompt
from sa2va_ray.images.decode import ImageError, decode_image_bytes, decode_label_bytes, decode_mask_bytes
from sa2va_ray.images.spacing import Spacing, read_pixel_spacing
from sa2va_ray.metrics import overlap_metrics
from sa2va_ray.prepare.checks.annotators import (
    Drawn,
    against_truth,
    agreement,
    draw_one,
    draw_several,
    of_annotator,
    with_consensus,
)
from sa2va_ray.prepare.checks.field_of_view import read_unseen, with_unseen
from sa2va_ray.prepare.classes import IGNORE, Classes
from sa2va_ray.prepare.config import ChecksConfig, PrepareConfig
from sa2va_ray.prepare.identity.pseudonyms import names_patient
from sa2va_ray.prepare.records import Annotation, Finding, Label, LabelFile, Record, Rejected, SeveralLabels

FILE_MISSING = "file_missing"
"""Code of a sample of which a file is not there, or cannot be read."""
_MAX_PHRASE_LENGTH = 200


@dataclass(frozen=True)
class Checked:
    """A sample that can be used.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8.
        masks: phrase -> (H, W) bool; all of them empty in an image without objects.
        ignored: (H, W) bool of the pixels that count neither as an object nor as background; None: all count.
        findings: what was repaired.
        mask_dice: Dice of the polygons against the mask image, None where there are not both.
        source_sha256: of the image file, and the frame's number where it holds several.
        by_annotator: annotator -> phrase -> (H, W) bool of what each drew; empty where there is one.
        spacing: (row, column) in millimetres, where it is known.
    """

    pixels: np.ndarray
    masks: dict[str, np.ndarray]
    ignored: np.ndarray | None
    findings: list[Finding]
    mask_dice: float | None
    source_sha256: str
    by_annotator: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    spacing: Spacing | None = None

    @property
    def counts(self) -> np.ndarray:
        """(H, W) bool: the pixels that count."""
        return np.ones(self.pixels.shape[:2], bool) if self.ignored is None else ~self.ignored

    @property
    def agreement(self) -> float | None:
        """Mean Dice of every two annotators; None of one."""
        return agreement(self.by_annotator, self.counts) if self.by_annotator else None

    @property
    def dice_of_annotators(self) -> dict[str, float]:
        """Annotator -> Dice against the truth, where there are several."""
        return against_truth(self.by_annotator, self.masks, self.counts)

    @property
    def num_objects(self) -> int:
        return sum(bool(mask.any()) for mask in self.masks.values())

    @property
    def union(self) -> np.ndarray:
        """(H, W) bool."""
        return np.logical_or.reduce(list(self.masks.values()))


def check_sample(record: Record, config: PrepareConfig) -> Checked:
    """
    Raises:
        Rejected: the image cannot be used, or the label does not fit it. Its `seen` has what was measured before.
        SilentStoreError: as `rejecting`.
    """
    seen: dict[str, Any] = {}
    try:
        with rejecting():
            return _check(record, config, seen)
    except Rejected as rejected:
        rejected.seen = seen
        raise


def _check(record: Record, config: PrepareConfig, seen: dict[str, Any]) -> Checked:
    data = read_image_file(record)
    pixels = decode_image_bytes(data, config.checks.max_pixels, record.frame)
    height, width = pixels.shape[:2]
    seen |= {"height": height, "width": width}
    annotations = read_annotations(record)
    _check_phrases(annotations, record)
    unseen = read_unseen(record, data, (height, width), config.checks.max_pixels)
    drawn = _draw(record, annotations, (height, width), unseen, config)
    masks = drawn.masks or _absent((height, width), config)
    seen |= {"num_objects": sum(bool(mask.any()) for mask in masks.values())}
    masks, mask_dice, more = _compare_with_mask_image(masks, record, config, seen)
    _check_negative(masks, bool(drawn.masks), record, config)
    _check_negative_texts(masks)
    seen |= {"foreground": float(np.logical_or.reduce(list(masks.values())).mean())}
    ignored = with_unseen(drawn.ignored, unseen, masks)
    _check_foreground(masks, config.checks)
    masks, left_out = _without_ignored(masks, ignored)
    digest = hashlib.sha256(data + (b"" if record.frame is None else f"#{record.frame}".encode())).hexdigest()
    spacing, wrong = _spacing(data, record, config)
    findings = [*drawn.findings, *more, *left_out, *wrong]
    return Checked(pixels, masks, ignored, findings, mask_dice, digest, drawn.by_annotator, spacing)


def _spacing(data: bytes, record: Record, config: PrepareConfig) -> tuple[Spacing | None, list[Finding]]:
    """Where the file tells numbers that cannot be, none is known."""
    if config.pixel_spacing_mm:
        return config.pixel_spacing_mm, []
    try:
        return read_pixel_spacing(data, record.frame), []
    except ImageError as error:
        return None, [Finding("pixel_spacing", f"{error.reason} It was left out.")]


def read_annotations(record: Record) -> dict[str, Annotation]:
    """Annotator, empty where there is one -> the record's label, out of its file if it has one of its own."""
    if not isinstance(record.label, SeveralLabels):
        return {"": _read(record.label)}
    annotations = {}
    labels = record.label.by_annotator
    for place, (annotator, label) in enumerate(labels.items(), 1):
        with of_annotator(place, len(labels)), rejecting():
            annotations[annotator] = _read(label)
    return annotations


def _read(label: Label) -> Annotation:
    return label.read(storage.read_bytes(label.uri), label.phrase) if isinstance(label, LabelFile) else label


def _draw(
    record: Record,
    annotations: dict[str, Annotation],
    size: tuple[int, int],
    unseen: dict[str, np.ndarray],
    config: PrepareConfig,
) -> Drawn:
    """The truth by the label, or by those of several annotators."""
    if not isinstance(record.label, SeveralLabels):
        return draw_one(annotations[""], size, config.label_size)
    assert config.annotators != "refuse"  # the readers keep to it
    drawn = draw_several(annotations, size, config.label_size)
    silent = sum(not any(mask.any() for mask in masks.values()) for masks in drawn.by_annotator.values())
    if silent and config.negatives == "refuse" and not record.is_listed_negative:
        raise Rejected(
            "no_objects",
            f"{silent} of {len(annotations)} annotators drew no object, which cannot be told from a slip. If images "
            "may be without the object, say negatives=allow, or list them in negatives_list; else cancel that "
            "annotation, or leave out its file.",
        )
    agreed = with_consensus(drawn, config.annotators, list(unseen.values()), config.checks.min_agreement)
    return replace(agreed, findings=[*record.label.findings, *agreed.findings])


@contextmanager
def rejecting() -> Iterator[None]:
    """Turns what reading and decoding raise into `Rejected`.

    Raises:
        SilentStoreError: the source's store does not answer. In quarantine the sample would be left out for an outage.
    """
    try:
        yield
    except ImageError as error:
        raise Rejected(error.code, error.reason) from None
    except storage.SilentStoreError as error:  # its message holds the path
        raise storage.SilentStoreError(
            f"The store of `source` did not answer, or not as it should, when a sample was read ({error.failure}). No "
            "sample is left out for that: run the job again when the store works, and the credentials are valid. What "
            "is written already stays."
        ) from None
    except (FileNotFoundError, UserError):  # their messages hold the path
        raise Rejected(FILE_MISSING, "A file of this sample is missing, or not readable from this machine.") from None


def read_image_file(record: Record) -> bytes:
    """Bytes of the record's image file. Of a file of many frames, which are neighbours in the order of the work, the
    last one is kept."""
    return storage.read_bytes(record.image_uri) if record.frame is None else _read_kept(record.image_uri)


_read_kept = lru_cache(maxsize=1)(storage.read_bytes)


def _check_phrases(annotations: dict[str, Annotation], record: Record) -> None:
    phrases = {phrase for annotation in annotations.values() for phrase in annotation.objects}
    longest = max(map(len, phrases), default=0)
    if longest > _MAX_PHRASE_LENGTH:
        raise Rejected("long_text", f"A text has {longest} characters, at most {_MAX_PHRASE_LENGTH} name an object.")
    if alike := len(phrases) - len({evaluation_prompt(phrase) for phrase in phrases}):
        raise Rejected(
            "phrases_alike",
            f"{alike} of {len(phrases)} texts of the annotation differ from another one in upper and lower case, or a "
            "full stop, alone, so both ask the same of the model. Write them alike, or list them under one phrase in "
            "`classes`.",
        )
    if record.patient and any(names_patient(phrase, record.patient) for phrase in phrases):
        raise Rejected(
            "text_names_patient",
            "A text of the annotation (label, category, phrase) holds the patient's name or number; it must name the "
            "object alone. If a word of the path is taken for a name that is none, let group `patient` of "
            "`patient_pattern` match less.",
        )


def _absent(size: tuple[int, int], config: PrepareConfig) -> dict[str, np.ndarray]:
    """Empty masks of what is not on an image whose label names no object."""
    phrases = [phrase for phrase in config.classes if phrase != IGNORE] or [config.phrase]
    return {phrase: np.zeros(size, bool) for phrase in phrases}


def _check_negative(masks: dict[str, np.ndarray], is_named: bool, record: Record, config: PrepareConfig) -> None:
    """Refuses an image without any object that may be a slip, and one with objects that is listed as one without."""
    if any(mask.any() for mask in masks.values()):
        if record.is_listed_negative:
            raise Rejected(
                "negative_has_objects",
                f"`negatives_list` names this image, and its label has {len(masks)} object(s). Take it off the list, "
                "or mend its label.",
            )
        return
    if config.negatives == "refuse" and not record.is_listed_negative:
        code, what = ("empty_mask", "is empty") if is_named else ("no_objects", "names no object")
        raise Rejected(
            code,
            f"The label {what}, which cannot be told from a slip. If there is no object on such images, say "
            "negatives=allow, or list them in negatives_list.",
        )


def _check_negative_texts(masks: dict[str, np.ndarray]) -> None:
    """The answer that there is no object names it, and would be taken for one that finds it."""
    if any(SEG in phrase and not mask.any() for phrase, mask in masks.items()):
        raise Rejected(
            "text_is_token", f"A text holds {SEG}, by which the model says that it found an object; rename it."
        )


def _compare_with_mask_image(
    masks: dict[str, np.ndarray], record: Record, config: PrepareConfig, seen: dict[str, Any]
) -> tuple[dict[str, np.ndarray], float | None, list[Finding]]:
    if record.mask_uri is None:
        return masks, None, []
    expected = _foreground_of(storage.read_bytes(record.mask_uri), config)
    union = np.logical_or.reduce(list(masks.values()))
    if expected.shape != union.shape:
        raise Rejected(
            "mask_size",
            f"The mask image has {expected.shape[1]} x {expected.shape[0]} px, its image {union.shape[1]} x "
            f"{union.shape[0]} px. Give them the same size.",
        )
    dice = overlap_metrics(union, expected)["dice"]
    seen |= {"mask_dice": dice}
    if dice >= config.checks.min_mask_dice:
        return masks, dice, []
    code, reason = _disagreement(union, expected, dice)
    if config.checks.on_disagreement == "quarantine":
        raise Rejected(code, f"{reason} Mend it, or say with checks.on_disagreement which of the two is right.")
    if config.checks.on_disagreement == "polygons":
        return masks, dice, [Finding(code, f"{reason} The polygons were taken.")]
    if len(masks) > 1:
        raise Rejected(code, f"{reason} The mask image does not tell the {len(masks)} phrases apart.")
    return dict.fromkeys(masks, expected), dice, [Finding(code, f"{reason} The mask image was taken.")]


def _foreground_of(data: bytes, config: PrepareConfig) -> np.ndarray:
    """(H, W) bool of a mask image, all classes together."""
    classes = Classes(config.classes)
    if not classes.has_values:
        return decode_mask_bytes(data, config.checks.max_pixels, config.mask_threshold)
    values = decode_label_bytes(data, config.checks.max_pixels, classes.has_colours)
    masks = [mask for phrase, mask in classes.masks_of(values).items() if phrase != IGNORE]
    return np.logical_or.reduce([np.zeros(values.shape, bool), *masks])


def _disagreement(polygons: np.ndarray, expected: np.ndarray, dice: float) -> tuple[str, str]:
    """Polygons that agree better with the mask once its holes are filled were drawn around outer contours."""
    filled = ndimage.binary_fill_holes(expected)
    if overlap_metrics(polygons, filled)["dice"] > dice:
        lost = int((polygons & filled & ~expected).sum())
        return (
            "loops_filled",
            f"The polygons fill {lost} px of loops that the mask image leaves open (Dice {dice:.3f}).",
        )
    return "polygons_differ", f"The polygons are too far from the mask image (Dice {dice:.3f}); were they simplified?"


def _without_ignored(
    masks: dict[str, np.ndarray], ignored: np.ndarray | None
) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """The objects of which a pixel counts: of others nobody could say whether an answer is right."""
    if ignored is None or not any(mask.any() for mask in masks.values()):
        return masks, []
    kept = {phrase: mask for phrase, mask in masks.items() if (mask & ~ignored).any()}
    counts = f"{len(masks) - len(kept)} of {len(masks)} object(s) lie wholly in what does not count"
    if not kept:
        raise Rejected("nothing_counts", f"{counts}; no object is left to be learnt.")
    return kept, [] if len(kept) == len(masks) else [Finding("object_ignored", f"{counts}, and were left out.")]


def _check_foreground(masks: dict[str, np.ndarray], checks: ChecksConfig) -> None:
    low, high = checks.min_foreground_fraction, checks.max_foreground_fraction
    empty = sum(not mask.any() for mask in masks.values())
    if empty == len(masks):  # an image without objects, which it may be
        return
    if empty:
        raise Rejected("empty_mask", f"{empty} of {len(masks)} objects cover no pixel of the image.")
    fraction = float(np.logical_or.reduce(list(masks.values())).mean())
    if not low <= fraction <= high:
        inverted = " The mask may be inverted." if low <= 1 - fraction <= high else ""
        reason = f"{fraction:.2%} of the pixels are foreground, not {low:.2%} to {high:.2%}.{inverted}"
        raise Rejected("foreground_fraction", reason)
