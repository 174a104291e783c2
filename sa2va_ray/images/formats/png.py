"""PNG files, chunk by chunk, before any decoder sees them."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from sa2va_ray.images.checks import codec_errors
from sa2va_ray.models.sa2va.pixels_sa2va import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 100_000  # of 8 KiB, as libpng writes them: 800 MB
_NEEDED = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}  # transparency, orientation, animation
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_ORIENTED = b"Raw profile type exif\0"  # keyword of texts that may tell the orientation
_COLOUR_MODES = ("RGB", "RGBA")
_MAX_TEXTS, _MAX_TEXT_BYTES = 32, 2**20  # Pillow refuses a file with more


def trimmed(data: bytes) -> bytes:
    """The file up to its end mark, without the chunks that nobody needs to know the pixels: colour profiles, texts,
    times. Decoders refuse a file for the size of these or a wrong checksum.

    Raises:
        ImageError: the file is cut off, or has more chunks than a file of its kind.
    """
    view, position, num_texts = memoryview(data), len(SIGNATURE), 0
    kept: list[bytes | memoryview] = [SIGNATURE]
    for _ in range(_MAX_CHUNKS):
        length, name = struct.unpack_from(">I4s", data, position) if position + 12 <= len(data) else (len(data), b"")
        end = position + 12 + length
        if end > len(data):
            raise ImageError("image_unreadable", f"The PNG file of {len(data)} bytes is cut off: it has no end mark.")
        is_text = name in _TEXTS and num_texts < _MAX_TEXTS and _tells_orientation(data[position + 4 : end])
        num_texts += is_text
        if name[0] & 0x20 == 0 or name in _NEEDED or is_text:
            kept.append(view[position:end])
        position = end
        if name == b"IEND":
            return b"".join(kept)
    raise ImageError("image_unreadable", f"The PNG file has more than {_MAX_CHUNKS} chunks; save it anew.")


def _tells_orientation(chunk: bytes) -> bool:
    """Whether a text (name, content, checksum) may say how the image is turned, is sound, and not too large."""
    content = chunk[4:-4]
    if not content.startswith(_ORIENTED) or zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:]):
        return False
    compressed = content[content.index(b"\0") :].find(b"\x78")  # where a stream of zlib may begin
    stream = zlib.decompressobj()
    try:
        size = len(stream.decompress(content[content.index(b"\0") + compressed :], _MAX_TEXT_BYTES))
    except zlib.error:
        size = 0
    return max(size, len(content)) < _MAX_TEXT_BYTES


def has_wide_colours(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether a file is a PNG of which PIL, which made `image` of it, reads colours and drops their low bytes."""
    return isinstance(image, PngImageFile) and image.mode in _COLOUR_MODES and data[24] > 8  # bits, always there


def wide_values(image: ImageFile.ImageFile, data: bytes) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) uint16 of such a PNG. PIL knows when a file is cut off, and OpenCV does not."""
    with codec_errors():
        PngImageFile(io.BytesIO(data)).verify()  # OpenCV allocates what a chunk claims, up to 4 GiB
        decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        values = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB if image.mode == "RGB" else cv2.COLOR_BGRA2RGBA)
    if not np.array_equal(values // 256, np.asarray(image)):
        raise ImageError("image_mode", "Two readers disagree on this 16-bit colour image; save it with 8 bits.")
    return values
