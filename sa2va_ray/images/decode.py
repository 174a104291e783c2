"""Encoded image files, from anybody, to pixels, masks and class numbers.

Files are checked before they are decoded, those that are cut off are refused, and whatever is found wrong is raised as
`ImageError`, whose text holds numbers only: messages of the libraries may quote names that are kept in a file.
"""

import io
from types import ModuleType

import numpy as np
from PIL import Image

from sa2va_ray.images.checks import is_dicom, several_images
from sa2va_ray.images.stored import read_stored, stored_size
from sa2va_ray.models.sa2va.pixels_sa2va import (
    ImageError,
    check_finite,
    colour_values,
    to_8_bits,
    to_grey,
    turned,
    values_to_pixels,
)


def read_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the one image in a file, as its header says; nothing is decoded, and an EXIF orientation is
    not looked at.

    Raises:
        ImageError: no header of an image that is read.
    """
    if is_dicom(data):
        facts = dicom_reader().read_facts(data)
        return facts.height, facts.width
    return stored_size(data)


def decode_image_bytes(data: bytes, max_pixels: int, frame: int | None = None) -> np.ndarray:
    """Encoded image -> (H, W) or (H, W, 3) uint8 by `values_to_pixels`, turned as its EXIF orientation says.

    Args:
        max_pixels: height x width up to which an image is decoded at all.
        frame: page of a TIFF or frame of a DICOM file, from 0; None for files that hold one image, beside which a TIFF
            may have thumbnails.

    Raises:
        ImageError: the image cannot be used.
    """
    if is_dicom(data):
        return _decode_dicom(data, max_pixels, frame)
    stored = read_stored(data, max_pixels, frame)
    values = stored.values if stored.image is None else colour_values(stored.image, stored.values)
    if stored.white is not None:
        values = to_8_bits(values, 0, stored.white)
    return turned(values_to_pixels(values), stored.orientation)


def decode_mask_bytes(data: bytes, max_pixels: int, threshold: int | None = None) -> np.ndarray:
    """Encoded mask image -> (H, W) bool, turned as its EXIF orientation says.

    The values are those in the file; of a palette image the indices, not the colours. A GIF has nothing but palettes,
    so of it the colours count.

    Args:
        threshold: foreground is value >= threshold; a 1-bit image needs none. None: the image may hold 0 and one
            greater value, or one of these alone.

    Raises:
        ImageError: the image cannot be used, or what is foreground in it is not certain.
    """
    stored = read_stored(data, max_pixels, frame=None)
    return turned(_foreground(_single_channel(stored.values), threshold), stored.orientation)


def decode_label_bytes(data: bytes, max_pixels: int, as_colours: bool = False) -> np.ndarray:
    """Encoded image of class numbers -> (H, W) integers, turned as its EXIF orientation says.

    Args:
        as_colours: give 0xRRGGBB of each pixel's colour in place of the value in the file, of which palette images have
            the index.

    Raises:
        ImageError: the image cannot be used, is coloured and shall not be, or has values that are not whole.
    """
    stored = read_stored(data, max_pixels, frame=None)
    if not as_colours:
        values = _single_channel(stored.values)
        check_finite(values)
        if values.dtype.kind == "f" and (values % 1).any():
            raise ImageError("image_values", "The mask image has values that are no whole numbers.")
        return turned(values.astype(np.int64), stored.orientation)
    colours = stored.values if stored.image is None else colour_values(stored.image, stored.values)
    rgb = _opaque(colours) if colours.ndim == 3 else np.repeat(colours[..., None], 3, axis=2)
    if rgb.dtype != np.uint8:
        raise ImageError("image_mode", "A mask image whose colours mean something needs 8 bits a channel.")
    return turned(rgb.astype(np.int64) @ np.array([0x10000, 0x100, 1]), stored.orientation)


def padding_of(data: bytes, max_pixels: int, frame: int | None = None) -> np.ndarray | None:
    """(H, W) bool of the pixels that a file itself says to be no part of its image: a DICOM file's padding. None: all
    are.

    Args and raises: as `decode_image_bytes`.
    """
    return dicom_reader().frame_padding(data, frame or 0, max_pixels) if is_dicom(data) else None


def to_png(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 -> PNG, made from pixels alone, so that no metadata of a source can come along."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def dicom_reader() -> ModuleType:
    """The module that reads DICOM, which needs an extra. Raises `ImageError` without it."""
    try:
        from sa2va_ray.images.formats import dicom
    except ModuleNotFoundError:
        raise ImageError(
            "dicom_missing", "The file is DICOM, and pydicom is not installed: pip install 'sa2va-ray[dicom]'."
        ) from None
    return dicom


def _decode_dicom(data: bytes, max_pixels: int, frame: int | None) -> np.ndarray:
    dicom = dicom_reader()
    if frame is None:
        num_frames = dicom.read_facts(data).num_frames
        if num_frames > 1:
            raise several_images(f"{num_frames} frames")
    return dicom.decode_frame(data, frame or 0, max_pixels)


def _single_channel(values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) -> (H, W); alpha must be opaque, and the other channels equal."""
    if values.ndim == 2:
        return values
    values = _opaque(values)
    grey = values[..., 0] if values.shape[2] == 1 else to_grey(values)
    if grey.ndim == 3:
        raise ImageError(
            "mask_colours",
            "The mask image is coloured; save it as grey, with 0 for background, or list its colours in `classes`.",
        )
    return grey


def _opaque(values: np.ndarray) -> np.ndarray:
    """(H, W, C) without its alpha, which must be opaque."""
    if values.shape[2] not in (2, 4):
        return values
    opaque = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    see_through = (values[..., -1] != opaque).sum()
    if see_through:
        raise ImageError(
            "mask_alpha",
            f"{see_through} pixels of the mask image are transparent; save it without transparency: as grey, or as RGB "
            "where its colours are classes.",
        )
    return values[..., :-1]


def _foreground(values: np.ndarray, threshold: int | None) -> np.ndarray:
    if values.dtype == bool:
        return values
    check_finite(values)
    if threshold is not None:
        return values >= threshold
    present = np.unique(values)
    if present[0] < 0 or (present > 0).sum() > 1:
        raise ImageError(
            "mask_values",
            f"The mask image has {len(present)} different values from {present[0]} to {present[-1]}; a mask has 0 and "
            "one greater value. Set mask_threshold in the config: foreground is value >= mask_threshold; or, where "
            "values are classes, list them in `classes`.",
        )
    return values > 0
