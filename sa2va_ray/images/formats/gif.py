"""GIF files, block by block, before any decoder sees them."""

import struct
from collections.abc import Iterator

from sa2va_ray.models.sa2va.pixels_sa2va import ImageError

SIGNATURE = b"GIF8"
_HEADER_SIZE = 13
_EXTENSION, _IMAGE, _END, _PADDING = 0x21, 0x2C, 0x3B, 0


def read_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the one image in a file.

    Raises:
        ImageError: the file is cut off, holds no image or several, or one that leaves a part of its area open.
    """
    try:
        width, height = struct.unpack_from("<HH", data, 6)
        boxes = list(_boxes(data))
    except (IndexError, struct.error):
        raise ImageError("image_unreadable", f"The GIF file of {len(data)} bytes is cut off.") from None
    if not boxes:
        raise ImageError("image_unreadable", "The GIF file holds no image.")
    if len(boxes) > 1:
        raise ImageError("image_frames", f"The file holds {len(boxes)} images; write one file for each.")
    if boxes[0] != (0, 0, width, height):
        left, top, *size = boxes[0]
        raise ImageError(
            "image_mode",
            f"The image in the GIF file has {size[0]} x {size[1]} px at ({left}, {top}) of an area of {width} x "
            f"{height}; save it as PNG.",
        )
    return height, width


def _boxes(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(left, top, width, height) of each image. Raises `IndexError` or `struct.error` where the file is cut off."""
    position = _HEADER_SIZE + _palette_size(data[10])
    while position < len(data) and data[position] != _END:  # some programs write no end mark
        if data[position] == _IMAGE:
            yield struct.unpack_from("<4H", data, position + 1)
            position = _after_blocks(data, position + 11 + _palette_size(data[position + 9]))
        elif data[position] == _EXTENSION:
            position = _after_blocks(data, position + 2)
        elif data[position] == _PADDING:
            position += 1
        else:
            raise ImageError("image_unreadable", f"The GIF file has a block of the unknown kind {data[position]}.")


def _palette_size(flags: int) -> int:
    """Bytes of the palette that these flags announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, position: int) -> int:
    """Where a chain of blocks, each with its size before it and the last one empty, is over."""
    while size := data[position]:
        position += size + 1
    return position + 1
