"""A sample: one image with its objects, a row of the prepared data set (contract: docs/en/data.md)."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from sa2va_ray.images.masks import rle_to_mask

SPLITS = ("train", "val", "test")

_RLE = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
_OBJECTS = pa.list_(pa.struct([("phrase", pa.string()), ("rle", _RLE)]))

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),  # pseudonym, unique in the data set
        ("patient_id", pa.string()),  # pseudonym; a patient is in one split only
        ("run_id", pa.string()),  # pseudonym of the recording
        ("frame", pa.int64()),  # number of the image in its run
        ("image", pa.binary()),  # PNG without metadata
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("objects", _OBJECTS),  # one per phrase; its polygons are united; an empty mask: there is none on the image
        ("ignored", _RLE),  # pixels that count neither as an object nor as background; null: all count
        (
            "annotators",  # what each of several drew, by pseudonym, of which `objects` are the consensus; null: one
            pa.list_(pa.struct([("annotator", pa.string()), ("objects", _OBJECTS)])),
        ),
        ("pixel_spacing_mm", pa.list_(pa.float64())),  # from row to row, from column to column; null: not known
        ("split", pa.string()),
        ("source_sha256", pa.string()),  # of the source image file
        ("annotations_sha256", pa.list_(pa.string())),  # of the ids of Label Studio's annotations; null: another label
    ]
)


def decode_image(sample: Mapping[str, Any]) -> Image.Image:
    """The sample's image as PIL RGB, (H, W) as stored."""
    return Image.open(io.BytesIO(sample["image"])).convert("RGB")


def object_masks(sample: Mapping[str, Any]) -> np.ndarray:
    """(N, H, W) bool: the masks of the sample's N objects, in their order; one that is not on the image is empty."""
    return np.stack([rle_to_mask(each["rle"]) for each in sample["objects"]])


def phrase_masks(sample: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Phrase -> (H, W) bool, empty where it is not on the image."""
    return {each["phrase"]: rle_to_mask(each["rle"]) for each in sample["objects"]}


def annotator_masks(sample: Mapping[str, Any], phrase: str) -> np.ndarray:
    """(R, H, W) bool: what each of the sample's R annotators drew of one phrase, perhaps nothing; R is 0 where the
    sample does not tell several."""
    masks = np.zeros((len(sample["annotators"] or ()), *sample["objects"][0]["rle"]["size"]), bool)
    for mask, annotator in zip(masks, sample["annotators"] or (), strict=True):
        for each in annotator["objects"]:
            if each["phrase"] == phrase:
                mask[:] = rle_to_mask(each["rle"])
    return masks


def ignored_mask(sample: Mapping[str, Any]) -> np.ndarray | None:
    """(H, W) bool: the pixels that count neither in losses nor in metrics; None where all count."""
    rle = sample["ignored"]
    return None if rle is None else rle_to_mask(rle)
