"""Opens and checks one image, and encodes it with its masks as columns of a sample.

Everything that can be wrong with one sample is raised as `Rejected`, so that no exception of a library, whose message
may hold a path, leaves a Ray task.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from sa2va_ray.data.masks import mask_to_rle, polygons_to_mask
from sa2va_ray.prepare.records import Record, Rejected

MAX_PIXELS = 8192 * 8192

_FORMATS = ("PNG", "JPEG", "BMP")
_MODES = ("1", "L", "P", "RGB")
_MAX_OUTSIDE_PX = 1.0


def find_duplicates(records: Sequence[Record]) -> set[int]:
    """Indices of the records whose image another record names too."""
    counts = Counter(record.name for record in records)
    return {record.index for record in records if counts[record.name] > 1}


def encode_sample(record: Record) -> dict[str, Any]:
    """The columns `image, height, width, objects, source_sha256` of a sample.

    Raises:
        Rejected: the image cannot be used, or the polygons do not fit it.
    """
    data = _read(record.image)
    pixels = _decode(data)
    height, width = pixels.shape[:2]
    masks = {phrase: _rasterize(polygons, height, width) for phrase, polygons in record.objects.items()}
    return {
        "image": _to_png(pixels),
        "height": height,
        "width": width,
        "objects": [{"phrase": phrase, "rle": mask_to_rle(mask)} for phrase, mask in masks.items()],
        "source_sha256": hashlib.sha256(data).hexdigest(),
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError):  # ValueError: a path with a null character
        raise Rejected("image_missing", "The image file is missing, or not readable where it was looked for.") from None


def _decode(data: bytes) -> np.ndarray:
    """Encoded image -> (H, W) or (H, W, 3) uint8, turned as its EXIF orientation says."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image)
            return _to_pixels(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise _too_large() from None
    except (OSError, SyntaxError, ValueError):  # what PIL raises for broken files of these formats
        raise Rejected("image_unreadable", "The image file is broken, cut off, or not PNG, JPEG or BMP.") from None


def _check_header(image: ImageFile.ImageFile) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large()
    # PIL opens 16-bit colour as RGB and drops the low bytes; only the raw mode shows it.
    if image.mode not in _MODES or any(";16" in str(tile.args) for tile in image.tile):
        raise Rejected(
            "image_mode", f"Pixels of mode {image.mode} with this many bits are not read; convert to 8-bit RGB."
        )
    if getattr(image, "n_frames", 1) > 1:
        raise Rejected("image_frames", "The file holds several images; write one file for each.")


def _too_large() -> Rejected:
    return Rejected("image_too_large", f"The image has more than {MAX_PIXELS} pixels; make it smaller.")


def _to_pixels(image: Image.Image) -> np.ndarray:
    rgb = np.asarray(image.convert("RGB"))
    is_grey = (rgb[..., :1] == rgb).all()
    return rgb[..., 0] if is_grey else rgb  # a third of the bytes, and the same after convert("RGB")


def _to_png(pixels: np.ndarray) -> bytes:
    """Made from pixels alone, so that no metadata of the source can come along."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _rasterize(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    points = np.concatenate(polygons)
    limit = np.array([width, height]) - 1 + _MAX_OUTSIDE_PX
    outside = ((points < -_MAX_OUTSIDE_PX) | (points > limit)).any(axis=1).sum()
    if outside:
        raise Rejected(
            "polygon_outside",
            f"{outside} of {len(points)} polygon points lie outside the image of {width} x {height} px, up to "
            f"({points[:, 0].max():.0f}, {points[:, 1].max():.0f}): the polygons may be made for another size.",
        )
    mask = polygons_to_mask(polygons, height, width)
    if not mask.any():
        raise Rejected("empty_mask", "The polygons cover no pixel of the image.")
    return mask
