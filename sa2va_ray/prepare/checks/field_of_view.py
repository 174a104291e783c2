"""What the camera saw: outside of it no pixel counts."""

import numpy as np

from sa2va_ray import storage
from sa2va_ray.images.decode import ImageError, decode_mask_bytes
from sa2va_ray.prepare.records import Record, Rejected


def read_field_of_view(record: Record, size: tuple[int, int], max_pixels: int) -> np.ndarray | None:
    """(H, W) bool, true inside; None where nothing tells it."""
    if not record.field_of_view_uri:
        return None
    try:
        seen = decode_mask_bytes(storage.read_bytes(record.field_of_view_uri), max_pixels)
    except ImageError as error:
        if error.code != "mask_values":
            raise
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


def with_field_of_view(ignored: np.ndarray, view: np.ndarray | None, masks: dict[str, np.ndarray]) -> np.ndarray | None:
    """What the label says to be neither object nor background, and what is outside of the field of view."""
    if view is not None:
        objects = np.logical_or.reduce(list(masks.values()))
        num_outside, num_pixels = int((objects & ~view).sum()), int(objects.sum())
        if 2 * num_outside > num_pixels:
            raise Rejected(
                "field_of_view_objects",
                f"{num_outside} of the {num_pixels} pixels of objects are outside of the field of view. Is its mask "
                "inverted, or that of another image?",
            )
        ignored = ignored | ~view
    if ignored.all():
        raise Rejected("nothing_counts", "The label says of every pixel that it does not count.")
    return ignored if ignored.any() else None
