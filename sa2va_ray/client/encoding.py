"""Encoding images: from what a caller has to the bytes of a file, without losing a bit of a pixel."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from sa2va_ray.client.options import ImageLike

# Modes of PIL, by the kind of file that holds all their bits.
_AS_PNG, _AS_TIFF = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B"), ("I", "I;16L", "I;16N", "F")
_BITS, _COMPRESSION, _PHOTOMETRIC, _COLORMAP, _SAMPLE_FORMAT, _BLACK_IS_ZERO = 258, 259, 262, 320, 339, 1  # of TIFF


def encode_image(image: "ImageLike") -> bytes:
    """The file that is sent for an image: a file as it is, pixels as PNG or TIFF.

    Raises:
        OSError: there is no such file.
        TypeError: it is none of the kinds of image.
        ValueError: pixels that the endpoint would not read, or that PIL does not hold as the file has them.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        if not os.fspath(image):
            raise ValueError("The path of the image is empty.")
        return Path(image).read_bytes()
    if hasattr(image, "read"):
        return _read_opened(image)
    if not hasattr(image, "save"):
        raise TypeError(f"An image is a path, bytes, an opened file or a PIL.Image, not a {type(image).__name__}.")
    return _encode_pixels(image)


def _encode_pixels(image: "Image") -> bytes:
    """A file that holds all bits of an image and nothing else, turned as its EXIF says.

    Raises:
        ValueError: the endpoint would not read such pixels, or PIL does not hold those of the file.
    """
    if image.mode not in (*_AS_PNG, *_AS_TIFF):
        raise ValueError(f"Pixels of the kind {image.mode} are ambiguous: send image.convert('RGB'), or grey values.")
    if not image.width * image.height:
        raise ValueError(f"The image has {image.width} x {image.height} px.")
    try:
        return _turned_file(image)
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError):
        raise ValueError(
            "PIL cannot give the pixels of this image: its file is broken, cut off or closed, or its "
            "info['transparency'] is that of another mode."
        ) from None


def _turned_file(image: "Image") -> bytes:
    from PIL import ImageOps

    if not _is_faithful(image):
        raise ValueError("PIL does not hold all that the file of this image says: give its path, not the opened image.")
    xmp = image.info.pop("xmp", None)  # whose orientation does not count
    try:
        image.load()
    finally:
        if xmp is not None:
            image.info["xmp"] = xmp
    copy = image.copy()
    copy.info = {name: value for name, value in image.info.items() if name not in ("xmp", "XML:com.adobe.xmp")}
    turned = ImageOps.exif_transpose(copy)
    turned.info = {name: value for name, value in turned.info.items() if name == "transparency"}
    buffer = io.BytesIO()
    convert = {"I;16N": "I", "PA": "RGBA"}.get(image.mode, image.mode)
    plain = turned.convert(convert) if convert != image.mode else turned.copy()  # a copy has no tags
    plain.save(buffer, "PNG" if image.mode in _AS_PNG else "TIFF")
    return buffer.getvalue()


def _is_faithful(image: "Image") -> bool:
    """PIL keeps 8 of 16 bits of colours, and reads some wide samples of TIFF otherwise than its tags say."""
    if not image.mode.startswith(("I", "F")) and _has_wide_source(image):
        return False
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    bits, formats = max(tags.get(_BITS, (1,))), tags.get(_SAMPLE_FORMAT, 1)
    if max(tags.get(_COLORMAP, (2**16 - 1,))) < 2**8:
        return False  # PIL takes the high bytes
    if bits <= 8:
        return formats in (1, (1,), (1, 1, 1), (1, 1, 1, 1))
    is_uint32 = image.mode == "I" and bits == 32 and formats in (1, (1,))
    is_mixed_up = image.mode in ("I", "F") and tags.get(_COMPRESSION, 1) != 1 and getattr(tags, "prefix", b"") == b"MM"
    is_grey = image.mode not in ("RGB", "RGBA") and tags.get(_PHOTOMETRIC) == _BLACK_IS_ZERO
    return is_grey and not is_uint32 and not is_mixed_up


def _has_wide_source(image: "Image") -> bool:
    """Whether the samples that PIL is about to decode have more than 8 bits."""
    for codec, _, _, arguments in getattr(image, "tile", ()):
        last: Any = arguments[-1] if isinstance(arguments, tuple) else None
        is_wide = codec == "SGI16" or (codec == "sgi_rle" and last == 2)  # bytes of a sample
        is_wide |= codec in ("ppm", "ppm_plain") and last > 255  # the greatest value
        if is_wide or ";16" in str(arguments) or (codec == "jpeg2k" and _jpeg_2000_bits(image) > 8):
            return True
    return False


def _jpeg_2000_bits(image: Any) -> int:
    """Bits of a sample, read from the code stream, since PIL does not tell."""
    position = image.fp.tell()
    image.fp.seek(0)
    _, _, code = image.fp.read().partition(b"\xff\x4f\xff\x51")
    image.fp.seek(position)
    return max((depth & 127) + 1 for depth in code[38:][: 3 * int.from_bytes(code[36:38]) : 3])


def _read_opened(file: Any) -> bytes:
    data = file.read()
    if not isinstance(data, bytes):
        raise TypeError("The file of the image is opened as text: open it with mode 'rb'.")
    return data
