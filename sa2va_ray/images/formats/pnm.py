"""PBM, PGM and PPM files. Pillow is not asked: it scales their values, and drops the low bytes of 16-bit colours."""

import re
from dataclasses import dataclass

import numpy as np

from sa2va_ray.models.sa2va.pixels_sa2va import ImageError

_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])"
_HEADER = re.compile(rb"P([1-6])" + (_SPACE + rb"+(\d{1,9})") * 2)
_WHITE = re.compile(_SPACE + rb"+(\d{1,5})")
_COMMENT = re.compile(rb"#[^\r\n]*")
_KINDS = b"123456"


@dataclass(frozen=True)
class Header:
    """Attributes:
    white: greatest value that a sample may have.
    is_text: whether the samples are written as decimal numbers.
    start: where the samples begin.
    """

    height: int
    width: int
    channels: int
    white: int
    is_text: bool
    start: int


def is_pnm(data: bytes) -> bool:
    return data[:1] == b"P" and data[1:2] in _KINDS and len(data) > 2 and (data[2:3].isspace() or data[2:3] == b"#")


def read_header(data: bytes) -> Header:
    """Raises `ImageError` where there is none."""
    found = _HEADER.match(data)
    kind = int(data[1:2])
    white = _WHITE.match(data, found.end()) if found and kind not in (1, 4) else None
    end = (white or found).end() if found else len(data)
    if not found or not data[end : end + 1].isspace() or (kind not in (1, 4) and not white):
        raise ImageError("image_unreadable", "The header of the PNM file is broken or cut off; save it as PNG.")
    greatest = int(white[1]) if white else 1
    if not 0 < greatest < 2**16:
        raise ImageError("image_mode", f"The PNM file has values up to {greatest}; from 1 to 65535 are read.")
    return Header(int(found[3]), int(found[2]), 3 if kind in (3, 6) else 1, greatest, kind < 4, end + 1)


def read_values(data: bytes, header: Header) -> np.ndarray:
    """The values as they are stored: (H, W) or (H, W, 3) uint8 or uint16; of a PBM (H, W) bool, whose white is true.

    Raises:
        ImageError: the file is cut off, or has a value above the greatest that it announces.
    """
    if data[1:2] in b"14":
        return _bits(data, header) == 0
    shape = (header.height, header.width, header.channels)[: 2 if header.channels == 1 else 3]
    num_samples = int(np.prod(shape))
    dtype = np.dtype(">u1" if header.white < 256 else ">u2")
    values = _numbers(data, header) if header.is_text else _cut(data, header, num_samples * dtype.itemsize).view(dtype)
    _check_number(values.size, num_samples)
    if values.size and not 0 <= values.min() <= values.max() <= header.white:
        raise ImageError("image_unreadable", f"The PNM file has a value that is not within 0 to {header.white}.")
    return values[:num_samples].reshape(shape).astype(dtype.newbyteorder("="))


def _bits(data: bytes, header: Header) -> np.ndarray:
    """(H, W) of 0 and 1, which is black."""
    if header.is_text:
        digits = b"".join(_COMMENT.sub(b"", data[header.start :]).split())
        _check_number(len(digits), header.height * header.width)
        bits = np.frombuffer(digits, np.uint8, header.height * header.width) - ord("0")
        if bits.size and bits.max() > 1:
            raise ImageError("image_unreadable", "The PBM file is a text that holds more than 0 and 1.")
        return bits.reshape(header.height, header.width)
    packed = _cut(data, header, header.height * -(-header.width // 8)).reshape(header.height, -1)
    return np.unpackbits(packed, axis=1)[:, : header.width]


def _numbers(data: bytes, header: Header) -> np.ndarray:
    """(N,) int64 of a text."""
    words = _COMMENT.sub(b" ", data[header.start :])
    if words.translate(None, b"0123456789 \t\r\n\v\f"):
        raise ImageError("image_unreadable", "The PNM file is a text that holds more than whole numbers.")
    return np.fromstring(words, np.int64, sep=" ") if words.strip() else np.zeros(0, np.int64)


def _cut(data: bytes, header: Header, size: int) -> np.ndarray:
    _check_number(len(data) - header.start, size)
    if len(data) - header.start == size + 1 and data[header.start - 1 : header.start + 1] == b"\r\n":
        raise ImageError(
            "image_unreadable", "The header of the PNM file ends with two line breaks, so all pixels are one byte late."
        )
    if is_pnm(data[header.start + size :].lstrip()):
        raise ImageError("image_frames", "The PNM file holds several images; write one file for each.")
    return np.frombuffer(data, np.uint8, size, header.start)


def _check_number(found: int, expected: int) -> None:
    if found < expected:
        raise ImageError("image_unreadable", f"The PNM file is cut off: {found} of {expected} values are there.")
