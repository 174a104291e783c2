"""What JPEG, JPEG-LS and JPEG 2000 code streams say of themselves, before they are decoded."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sa2va_ray.images.checks import codec_errors
from sa2va_ray.models.sa2va.pixels_sa2va import ImageError

_START, _END, _SCAN, _JFIF, _ADOBE = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG; F7: JPEG-LS
_DECODED = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]", re.DOTALL)  # none of those that stand inside of coded data
_JPEG_2000 = b"\xff\x4f\xff\x51"
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"


@dataclass(frozen=True)
class StreamFacts:
    """Attributes:
    channels, bits: samples of a pixel, and bits of a sample.
    is_signed: what JPEG 2000 says; lossy JPEG is not; of lossless JPEG and JPEG-LS, which hold any bits, None.
    has_ycc: whether three channels are brightness and colour differences, by what the stream says itself; None where
        it says nothing. Of JPEG 2000: whether its decoder makes RGB of them.
    is_usual: a JPEG of a kind that libjpeg reads: baseline, extended or progressive.
    """

    height: int
    width: int
    channels: int
    bits: int
    is_signed: bool | None = False
    has_ycc: bool | None = None
    is_usual: bool = True


def read_stream_facts(code: bytes) -> StreamFacts:
    """Raises `ValueError` or `struct.error` where there are none."""
    if code.startswith(_JP2):
        code = code[code.index(_JPEG_2000) :]
    return _jpeg_2000_facts(code) if code.startswith(_JPEG_2000) else _jpeg_facts(code)


def has_end(code: bytes) -> bool:
    """Whether a JPEG comes to its end mark; what follows that, such as a preview, does not matter."""
    try:
        return any(marker == _END for marker, _ in _markers(code))
    except struct.error:
        return False


def check_jpeg(data: bytes) -> None:
    """Raises `ImageError` for a JPEG that is cut off, or of a kind that is not read. A decoder is content when it has
    all rows, whether or not the file goes on to its end."""
    if not has_end(data):
        raise ImageError("image_unreadable", f"The file of {len(data)} bytes is cut off: it has no end mark.")
    with codec_errors():
        facts = read_stream_facts(data)
    if facts.bits != 8 or not facts.is_usual:
        kind = f"{facts.bits} bits a sample" if facts.is_usual else "the lossless or arithmetic kind"
        raise ImageError("image_mode", f"JPEG files of {kind} are not read; save it as PNG.")


def _markers(code: bytes) -> Iterator[tuple[int, int]]:
    """Markers of a JPEG and where their content begins, behind the length."""
    position = 2
    while found := _MARKER.search(code, position):
        marker, position = code[found.start() + 1], found.end()
        if marker == _END:
            yield marker, position
            return
        if marker != _START:
            (length,) = struct.unpack_from(">H", code, position)
            yield marker, position + 2
            position += max(length, 2)


def _jpeg_facts(code: bytes) -> StreamFacts:
    has_ycc: bool | None = None
    for marker, start in _markers(code):
        if marker == _JFIF and code[start : start + 5] == b"JFIF\0" and has_ycc is None:
            has_ycc = True
        elif marker == _ADOBE and code[start : start + 5] == b"Adobe" and has_ycc is None:
            has_ycc = code[start + 11] != 0
        elif marker in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", code, start)
            names = code[start + 6 : start + 6 + 3 * channels : 3]
            if has_ycc is None and names == b"RGB":
                has_ycc = False
            is_usual = marker in _DECODED
            return StreamFacts(height, width, channels, bits, False if is_usual else None, has_ycc, is_usual)
    raise ValueError("no frame")


def _jpeg_2000_facts(code: bytes) -> StreamFacts:
    right, bottom, left, top = struct.unpack_from(">4I", code, 8)
    (channels,) = struct.unpack_from(">H", code, 40)
    depth = code[42]
    position = 2
    while code[position : position + 2] != b"\xff\x52":  # COD, the coding style
        if code[position : position + 2] == b"\xff\x90":  # a tile, before which it must stand
            raise ValueError("no coding style")
        position += 2 + struct.unpack_from(">H", code, position + 2)[0]
    return StreamFacts(bottom - top, right - left, channels, (depth & 127) + 1, depth > 127, code[position + 8] == 1)
