"""From stored values to the pixels that the model sees: one rule for files, `PIL.Image` and arrays. numpy and PIL only.

Shapes: H W pixels, C channels.
"""

import struct
from typing import Any

import numpy as np
from PIL import Image

_ORIENTATION = 274  # tag of EXIF and TIFF
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT, _COMPRESSION, _COLORMAP = 262, 258, 339, 259, 320  # of TIFF
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
# What PIL raises for EXIF that is none.
_RUBBISH = (ArithmeticError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error)


class ImageError(ValueError):
    """The image cannot be used.

    Attributes:
        code: short name, to count by.
        reason: a sentence with numbers and cure, without any name of the source.
    """

    def __init__(self, code: str, reason: str):
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def rgb_image(image: Image.Image | np.ndarray) -> Image.Image:
    """A picture of any kind -> RGB, as `image_pixels` makes it; one that is RGB already is given back as it is.

    Raises:
        ImageError: the image cannot be used.
    """
    if isinstance(image, Image.Image) and image.mode == "RGB" and _is_plain(image):
        return image
    return Image.fromarray(rgb_pixels(image))


def rgb_pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """A picture of any kind -> (H, W, 3) uint8, as `image_pixels` makes it; an array that is that already is given back
    as it is.

    Raises:
        ImageError: the image cannot be used.
    """
    if type(image) is np.ndarray and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        return image
    pixels = image_pixels(image)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def image_pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """A picture of any kind -> (H, W) or (H, W, 3) uint8, as `values_to_pixels` says, turned as EXIF says.

    Args:
        image: PIL's, or an array (H, W) or (H, W, C) of bool, integers or floats, C = 2 (grey, alpha), 3 or 4.

    Raises:
        ImageError: the image cannot be used.
    """
    if isinstance(image, np.ndarray):
        return values_to_pixels(_checked_array(image))
    if not isinstance(image, Image.Image):
        raise ImageError("image_kind", f"An image is a PIL.Image or an array, not {type(image).__name__}.")
    check_mode(image)
    _load(image)
    return turned(values_to_pixels(colour_values(image, _as_tags_say(image))), orientation_of(image))


def values_to_pixels(values: np.ndarray) -> np.ndarray:
    """Stored values (H, W) or (H, W, C) -> (H, W) or (H, W, 3) uint8.

    uint8 stays as it is, bool becomes 0 and 255, all else is brought to 0..255 linearly from the least to the greatest
    value of the image, all channels together; a constant image becomes 0. Transparent pixels (C = 2 or 4, the last
    channel is alpha) are laid over black. Colours whose channels are equal become grey.

    Raises:
        ImageError: values that are not finite, or an image that is transparent everywhere.
    """
    values = _over_black(values)
    if values.dtype == bool:
        return values * np.uint8(255)
    return to_grey(values if values.dtype == np.uint8 else to_8_bits(values))


def to_8_bits(
    values: np.ndarray, low: float | None = None, high: float | None = None, inside: np.ndarray | None = None
) -> np.ndarray:
    """Numbers -> uint8 of the same shape, linearly so that `low` becomes 0 and `high` 255, and cut off beyond.

    Args:
        low, high: the least and the greatest of the values where they are not given; if they are equal, all becomes 0.
        inside: bool of the same shape, which values count for these two; None: all.

    Raises:
        ImageError: some values are not finite.
    """
    check_finite(values)
    if low is None and values.dtype.kind in "iu" and values.itemsize == 8:  # which float64 does not hold exactly
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        values = values.view(np.uint64) - values.min().view(np.uint64)
    counted = values if inside is None else values[inside]
    low = float(counted.min()) if low is None else low
    high = float(counted.max()) if high is None else high
    if low == high:
        return np.zeros(values.shape, np.uint8)
    if high - low > np.finfo(np.float64).max / 255:
        return to_8_bits(values / 1024, low / 1024, high / 1024)
    scaled = values.astype(np.float64)
    scaled -= low
    scaled *= 255
    scaled /= high - low
    return np.rint(scaled.clip(0, 255, out=scaled), out=scaled).astype(np.uint8)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) -> (H, W) if all channels are equal, else the same."""
    if pixels.ndim == 2:
        return pixels
    first = pixels[..., 0]
    is_grey = np.array_equal(first, pixels[..., 1]) and np.array_equal(first, pixels[..., 2])
    return np.ascontiguousarray(first) if is_grey else pixels


def check_finite(values: np.ndarray) -> None:
    """Raises `ImageError` where a value is NaN or infinite."""
    bad = values.size - np.isfinite(values).sum()
    if bad:
        raise ImageError("image_values", f"{bad} of {values.size} values of the image are not finite numbers.")


def check_mode(image: Image.Image) -> None:
    """Raises `ImageError` for a mode whose grey values are ambiguous."""
    if image.mode not in _MODES:
        raise ImageError(
            "image_mode",
            f"Pixels of the kind {image.mode} are not read, as their grey values are ambiguous; make it RGB.",
        )


def colour_values(image: Image.Image, values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) with C of 2 (grey, alpha), 3 or 4 (RGB, alpha): palettes and colour keys are resolved.

    Args:
        values: what is stored in the image, where PIL has not all of it.
    """
    if image.mode in ("La", "RGBa"):  # laid over black already
        colours, alpha = values[..., :-1], values[..., -1]
        _check_visible(alpha)
        return colours[..., 0] if image.mode == "La" else colours
    if image.mode not in ("P", "PA") and "transparency" not in image.info:
        return values
    colormap = np.reshape(getattr(image, "tag_v2", {}).get(_COLORMAP, (2**16 - 1,) * 3), (3, -1)).T
    if colormap.max() < 2**8 and image.mode == "P":  # as old programs wrote it; PIL takes the high bytes
        return colormap.astype(np.uint8)[values]
    if image.mode == "P" and image.palette is None:
        raise ImageError("image_unreadable", "The image has colours by number, and no palette; save it as RGB.")
    if values.dtype.itemsize > 1:
        raise ImageError("image_mode", "One wide value stands for transparent pixels; save the image without it.")
    key = image.info.get("transparency")
    if image.mode == "L" and key in range(1, 16) and not (values % 17).any():
        raise ImageError("image_mode", "Of grey of 2 or 4 bits PIL does not know which is transparent; give the file.")
    try:
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (TypeError, ValueError):
        raise ImageError(
            "image_mode", f"info['transparency'] is not of pixels of the kind {image.mode}; delete it, or give RGBA."
        ) from None


def orientation_of(image: Image.Image) -> int:
    """1 to 8, as EXIF counts them; 1 where a loaded image says nothing, or nothing of sense. XMP is not asked: of TIFF,
    which PIL turns, it would count for 8 bits only."""
    exif = Image.Exif()
    try:
        as_text = image.info.get("Raw profile type exif", "").split("\n")[3:]
        exif.load(image.info.get("exif") or bytes.fromhex("".join(as_text)))
        return exif.get(_ORIENTATION, 1)
    except _RUBBISH:
        return 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as stored -> as they are to be seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _load(image: Image.Image) -> None:
    """Reads the pixels; those of a TIFF are turned as its tag says, and not as XMP does."""
    if not image.width * image.height:
        raise ImageError("image_kind", f"The image has {image.width} x {image.height} px.")
    xmp = image.info.pop("xmp", None)
    try:
        _check_lost_bits(image)
        image.load()
    except ImageError:
        raise
    except (AttributeError, *_RUBBISH):
        raise ImageError(
            "image_unreadable",
            "PIL cannot read this image: its file is broken or cut off, or was closed before its pixels were read.",
        ) from None
    finally:
        if xmp is not None:
            image.info["xmp"] = xmp


def _is_plain(image: Image.Image) -> bool:
    """Whether the values of an RGB image are its pixels already."""
    _load(image)
    return "transparency" not in image.info and orientation_of(image) == 1


def _checked_array(values: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1) or (H, W, C) -> without a last axis of 1."""
    if isinstance(values, np.ma.MaskedArray):
        raise ImageError("image_kind", "The array is masked, and what its masked pixels show is not known; fill it.")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.dtype.kind not in "buif" or values.size == 0 or not _has_image_shape(values):
        raise ImageError(
            "image_kind",
            f"An array of shape {values.shape} and type {values.dtype} is no image; give (H, W) or (H, W, C) with C of "
            "2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) of bool, integers or floats.",
        )
    return values


def _has_image_shape(values: np.ndarray) -> bool:
    return values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (2, 3, 4))


def _over_black(values: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, C) with alpha or without -> without."""
    if values.ndim == 2 or values.shape[2] == 3:
        return values
    colours, alpha = values[..., :-1], values[..., -1:]
    if colours.shape[2] == 1:
        colours, alpha = colours[..., 0], alpha[..., 0]
    if values.dtype.kind != "u":
        raise ImageError(
            "image_mode", f"What is transparent in values of the type {values.dtype} is not known; leave alpha out."
        )
    _check_visible(alpha)
    opaque = np.iinfo(values.dtype).max
    if (alpha == opaque).all():
        return colours
    return np.rint(colours * (alpha / opaque)).astype(values.dtype)


def _check_visible(alpha: np.ndarray) -> None:
    if not alpha.any():
        raise ImageError("image_transparent", "Every pixel is fully transparent; save the image without alpha channel.")


def _check_lost_bits(image: Image.Image) -> None:
    """PIL keeps the high 8 of 16 bits of colours, and mixes up the bytes of some compressed TIFFs."""
    tags = getattr(image, "tag_v2", {})
    is_narrow = not image.mode.startswith(("I", "F"))
    has_lost = is_narrow and (max(tags.get(_BITS, (1,))) > 8 or _has_wide_source(image))
    is_mixed_up = image.mode in ("I", "F") and tags.get(_COMPRESSION, 1) != 1 and getattr(tags, "prefix", b"") == b"MM"
    is_signed = image.mode == "L" and 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))
    if has_lost or is_mixed_up or is_signed:
        raise ImageError(
            "image_mode", "PIL does not keep all bits of this image; give it as an array, or save it with 8 bits."
        )


def _has_wide_source(image: Image.Image) -> bool:
    """Whether the samples that PIL is about to decode have more than 8 bits."""
    for codec, _, _, args in getattr(image, "tile", []):
        last: Any = args[-1] if isinstance(args, tuple) else None
        is_wide = codec == "SGI16" or (codec == "sgi_rle" and last == 2)  # bytes of a sample
        is_wide |= codec in ("ppm", "ppm_plain") and last > 255  # the greatest value
        if is_wide or ";16" in str(args) or (codec == "jpeg2k" and _jpeg_2000_bits(image) > 8):
            return True
    return False


def _jpeg_2000_bits(image: Any) -> int:
    """Bits of a sample, read from the code stream, since PIL does not tell."""
    file = image.fp
    position = file.tell()
    file.seek(0)
    _, _, code = file.read().partition(b"\xff\x4f\xff\x51")
    file.seek(position)
    return max((depth & 127) + 1 for depth in code[38:][: 3 * int.from_bytes(code[36:38]) : 3])


def _as_tags_say(image: Image.Image) -> np.ndarray:
    """The values that a loaded image holds; of a TIFF opened by PIL as its tags say, where PIL has not heeded them."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(_BITS) == (32,) and 1 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):
        values = values.view(np.uint32)
    if tags.get(_PHOTOMETRIC) == 0 and image.mode.startswith(("I", "F")):
        return white_is_zero(values)
    return values


def white_is_zero(values: np.ndarray) -> np.ndarray:
    """Values of which the least is white -> of which the greatest is, of the same type."""
    return -values if values.dtype.kind == "f" else ~values
