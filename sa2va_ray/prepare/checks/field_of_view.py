"""What is no part of the picture: outside of the field of view, and in the padding of a DICOM file, no pixel counts."""

from collections.abc import Mapping

import numpy as np

from sa2va_ray import storage
from sa2va_ray.images.decode import ImageError, decode_mask_bytes, padding_of
from sa2va_ray.prepare.records import Record, Rejected

_OBJECTS_THERE = {
    "field_of_view_objects": "are outside of the field of view. Is its mask inverted, or that of another image?",
    "padding_objects": "are in the padding of the DICOM file (PixelPaddingValue). Is the label that of another frame, "
    "or does the header call values padding that are none?",
}
"""Code of the rejection -> how it goes on, where objects are in a part that is not seen."""


def read_unseen(record: Record, data: bytes, size: tuple[int, int], max_pixels: int) -> dict[str, np.ndarray]:
    """Key of `_OBJECTS_THERE` -> (H, W) bool, of the parts of an image that are no picture; none where nothing tells
    of any.

    Args:
        data: the image file.
        size: (H, W) of the image.
    """
    view = _read_field_of_view(record.field_of_view_uri, size, max_pixels) if record.field_of_view_uri else None
    padding = padding_of(data, max_pixels, record.frame)
    parts = {"field_of_view_objects": None if view is None else ~view, "padding_objects": padding}
    return {code: part for code, part in parts.items() if part is not None}


def with_unseen(
    ignored: np.ndarray, unseen: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """What the label says to be neither object nor background, and what is not seen; None where all pixels count.

    Raises:
        Rejected: most pixels of objects are in a part that is not seen, or no pixel counts.
    """
    objects = np.logical_or.reduce(list(masks.values()))
    num_pixels = int(objects.sum())
    for code, part in unseen.items():
        num_there = int((objects & part).sum())
        if 2 * num_there > num_pixels:
            raise Rejected(code, f"{num_there} of the {num_pixels} pixels of objects {_OBJECTS_THERE[code]}")
    every = np.logical_or.reduce([ignored, *unseen.values()])
    if every.all():
        raise Rejected("nothing_counts", "The label says of every pixel that it does not count.")
    return every if every.any() else None


def _read_field_of_view(uri: str, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """(H, W) bool, true inside."""
    try:
        seen = decode_mask_bytes(storage.read_bytes(uri), max_pixels)
    except ImageError as error:
        if error.code != "mask_values":
            raise Rejected(error.code, f"Of the mask of the field of view: {error.reason}") from None
        raise Rejected(
            "field_of_view_values",
            "The mask of the field of view has more than two values; save it with 0 outside and one greater value.",
        ) from None
    if seen.shape != size:
        raise Rejected(
            "field_of_view_size",
            f"The mask of the field of view has {seen.shape[1]} x {seen.shape[0]} px, its image {size[1]} x {size[0]} "
            "px. Give them the same size.",
        )
    return seen
