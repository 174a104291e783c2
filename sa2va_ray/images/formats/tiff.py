"""TIFF by its tags: which of its pages is the image, and samples of any width, which no library here reads rightly.

Pillow mixes up the bytes of compressed big-endian samples, drops the low ones of colours, wraps signed and unsigned
around, and does not invert wide WhiteIsZero; OpenCV reads planes and alpha wrongly. So only the codecs are theirs.

Shapes: H W pixels, C samples of a pixel.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from sa2va_ray.models.sa2va.pixels_sa2va import ImageError, white_is_zero

SIGNATURES = (b"II", b"MM")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 317, 322, 323, 324, 325
_SUBFILE, _OLD_SUBFILE, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 254, 255, 338, 339
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
# Unsigned integers, which all these tags are; a fraction is two of them.
_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 13: "I", 16: "Q", 18: "Q"}

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_UNCOMPRESSED, _PACKBITS, _DEFLATE = 1, 32773, (8, 32946)
_BY_LIBTIFF = (5, _PACKBITS, 34925, 50000)  # LZW, PackBits, LZMA, Zstandard
_WHOLE = (8, 16, 32, 64)  # bits that fill a number of numpy
_KINDS = {1: "u", 2: "i", 3: "f"}  # by sample format
_KIND_NAMES = {1: "unsigned", 2: "signed", 3: "floating point", 4: "untyped", 5: "complex", 6: "complex"}
_PREMULTIPLIED, _ALPHA = 1, 2  # meanings of an extra sample
_MAX_PAGES = 65_536
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Page:
    """An image in a TIFF file, by its tags."""

    number: int  # from 0
    tags: dict[int, tuple[int, ...]]
    endian: str

    def get(self, tag: int, default: int) -> int:
        return (self.tags.get(tag) or (default,))[0]

    @property
    def height(self) -> int:
        return self.get(_HEIGHT, 0)

    @property
    def width(self) -> int:
        return self.get(_WIDTH, 0)

    @property
    def segment(self) -> tuple[int, int]:
        """(height, width) of a tile or strip; of the last strip, more than there is."""
        if _TILE_WIDTH in self.tags:
            return self.get(_TILE_HEIGHT, 0), self.get(_TILE_WIDTH, 0)
        return min(self.get(_ROWS_PER_STRIP, self.height), self.height), self.width

    @property
    def num_samples(self) -> int:
        return self.get(_SAMPLES, 1)

    @property
    def bits(self) -> int:
        return self.get(_BITS, 1)

    @property
    def photometric(self) -> int:
        """-1 where the page does not say it."""
        return self.get(_PHOTOMETRIC, -1)

    @property
    def compression(self) -> int:
        return self.get(_COMPRESSION, _UNCOMPRESSED)

    @property
    def is_planar(self) -> bool:
        return self.get(_PLANAR, 1) == 2 and self.num_samples > 1

    @property
    def orientation(self) -> int:
        return self.get(_ORIENTATION, 1)

    @property
    def is_secondary(self) -> bool:
        """Whether it is a thumbnail or a mask of another page."""
        return self.get(_SUBFILE, 0) & 0b101 != 0 or self.get(_OLD_SUBFILE, 1) == 2

    @property
    def is_read_by_pillow(self) -> bool:
        """Samples of up to 8 bits, in the combinations that Pillow reads as the tags say."""
        if max(self.tags.get(_BITS, (1,))) > 8 or set(self.tags.get(_SAMPLE_FORMAT, (1,))) != {1}:
            return False
        if self.get(_PREDICTOR, 1) != 1 and self.compression in (_UNCOMPRESSED, _PACKBITS):
            return False  # where libtiff does not heed it
        if self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
            return self.num_samples == 1 and self.bits in (1, 2, 4, 8)
        return not self.is_planar or self.photometric == _RGB

    def describe(self) -> str:
        """Its tags in words."""
        kind = _KIND_NAMES.get(self.get(_SAMPLE_FORMAT, 1), "unknown")
        bits = "+".join(str(each) for each in self.tags.get(_BITS, (1,))[:8])
        planar = ", in planes" if self.is_planar else ""
        return (
            f"{self.num_samples} samples of {bits} bits ({kind}){planar}, photometric interpretation "
            f"{self.photometric}, compression {self.compression}"
        )


def read_pages(data: bytes) -> list[Page]:
    """The pages of a TIFF file, BigTIFF included, without their pixels.

    Raises:
        ImageError: the file is cut off, or its directory is none.
    """
    endian = "<" if data[:2] == b"II" else ">"
    try:
        (magic,) = struct.unpack_from(f"{endian}H", data, 2)
        if magic not in (42, 43):
            raise _broken(f"The file begins as TIFF does, but its version is {magic}, not 42 or 43.")
        (position,) = struct.unpack_from(f"{endian}{'Q' if magic == 43 else 'I'}", data, 8 if magic == 43 else 4)
        return list(_pages(data, endian, magic == 43, position))
    except struct.error:
        raise _broken(f"The TIFF file of {len(data)} bytes is cut off, or its directory points out of it.") from None


def padded_size(page: Page) -> tuple[int, int]:
    """(height, width) of all tiles together, which reach beyond the image."""
    height, width = page.segment
    if not height or not width:
        raise _broken(f"The TIFF file says that a piece of its image has {width} x {height} px.")
    return math.ceil(page.height / height) * height, math.ceil(page.width / width) * width


def page_values(page: Page, data: bytes) -> np.ndarray:
    """(H, W) or (H, W, C) samples as they are stored, white the greatest; alpha is the last of 2 or 4.

    Raises:
        ImageError: the file is broken, or its samples are of a kind that is not read.
    """
    _check_kind(page)
    values = np.concatenate(list(_planes(page, data)), axis=2)
    num_colours = 3 if page.photometric == _RGB else 1
    colours, extra = values[..., :num_colours], values[..., num_colours:]
    if page.photometric == _WHITE_IS_ZERO:
        colours = _inverted(colours, page.bits)
    values = colours if num_colours == 3 else colours[..., 0]
    default = _ALPHA if num_colours == 3 else 0
    if not extra.size or page.get(_EXTRA_SAMPLES, default) not in (_PREMULTIPLIED, _ALPHA):
        return values
    if page.get(_EXTRA_SAMPLES, default) == _PREMULTIPLIED:  # which is: laid over black
        return values
    return np.dstack([values, extra[..., 0]])


def _pages(data: bytes, endian: str, big: bool, position: int) -> Iterator[Page]:
    seen: set[int] = set()
    while position and position not in seen:
        if len(seen) == _MAX_PAGES:
            raise _broken(f"The TIFF file has more than {_MAX_PAGES} pages.")
        seen.add(position)
        tags, position = _directory(data, endian, big, position)
        yield Page(len(seen) - 1, tags, endian)
    if not seen:
        raise _broken("The TIFF file has no image.")


def _directory(data: bytes, endian: str, big: bool, position: int) -> tuple[dict[int, tuple[int, ...]], int]:
    """Tags that hold unsigned integers, and the position of the next directory.

    All values together must fit into the file: Pillow would read the whole file for each of 65,535 tags that say so.
    """
    (count,) = struct.unpack_from(endian + ("Q" if big else "H"), data, position)
    position += 8 if big else 2
    entry, inline, size = (endian + "HHQ", 8, 20) if big else (endian + "HHI", 4, 12)
    tags: dict[int, tuple[int, ...]] = {}
    left = len(data)
    if count * size > left:
        raise _broken(f"The TIFF file of {len(data)} bytes says that a page has {count} tags.")
    for at in range(position, position + count * size, size):
        tag, kind, length = struct.unpack_from(entry, data, at)
        left -= length * _SIZES.get(kind, 1)
        if left < 0:
            raise _broken(f"The tags of the TIFF file hold more than its {len(data)} bytes.")
        if kind not in _TYPES or tag not in _WANTED:
            continue
        start = at + size - inline
        if length * _SIZES[kind] > inline:
            (start,) = struct.unpack_from(endian + ("Q" if big else "I"), data, start)
        tags[tag] = struct.unpack_from(f"{endian}{length * len(_TYPES[kind])}{_TYPES[kind][0]}", data, start)
    (following,) = struct.unpack_from(endian + ("Q" if big else "I"), data, position + count * size)
    return tags, following


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WANTED = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES),
    *(_ROWS_PER_STRIP, _STRIP_SIZES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES),
    *(_SUBFILE, _OLD_SUBFILE, _EXTRA_SAMPLES, _SAMPLE_FORMAT, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT),
}


def check_interpretation(page: Page) -> None:
    """Raises `ImageError` where the tags do not say what the samples mean, or say something that is not read."""
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR):
        missing = _PHOTOMETRIC not in page.tags
        said = "does not say which of its values is white (no photometric interpretation)" if missing else "is not read"
        raise _not_read(page, f"This TIFF {said}")


def _check_kind(page: Page) -> None:
    num_colours = 3 if page.photometric == _RGB else 1
    bits, formats = set(page.tags.get(_BITS, (1,))), set(page.tags.get(_SAMPLE_FORMAT, (1,)))
    kind = _KINDS.get(page.get(_SAMPLE_FORMAT, 1))
    widths = {"u": (*range(8, 17), 32, 64), "i": _WHOLE, "f": (16, 32, 64), None: ()}[kind]
    is_known = (
        page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        and len(bits) == len(formats) == 1
        and page.bits in widths
        and num_colours <= page.num_samples <= num_colours + 1
        and (page.num_samples != 2 or page.get(_EXTRA_SAMPLES, 0) in (_PREMULTIPLIED, _ALPHA))  # else two images
        and page.compression in (_UNCOMPRESSED, *_DEFLATE, *_BY_LIBTIFF)
        and page.get(_PREDICTOR, 1) in ((1, 2, 3) if kind == "f" else (1, 2))
        and (page.bits in _WHOLE or (page.get(_PREDICTOR, 1) == 1 and page.num_samples == num_colours))
    )
    if not is_known:
        raise _not_read(page, "This TIFF is not read")


def _inverted(values: np.ndarray, bits: int) -> np.ndarray:
    """WhiteIsZero -> BlackIsZero."""
    return white_is_zero(values) if values.dtype.kind != "u" else values.dtype.type(2**bits - 1) - values


def _planes(page: Page, data: bytes) -> Iterator[np.ndarray]:
    """(H, W, C) once, or (H, W, 1) for each sample."""
    num_planes, num_samples = (page.num_samples, 1) if page.is_planar else (1, page.num_samples)
    segments = _segments(page, data, num_planes)
    height, width = page.segment
    for _ in range(num_planes):
        plane = np.empty((page.height, page.width, num_samples), _dtype(page).newbyteorder("="))
        for top in range(0, page.height, height):
            for left in range(0, page.width, width):
                rows = height if _TILE_WIDTH in page.tags else min(height, page.height - top)
                tile = _samples(page, next(segments), (rows, width, num_samples))
                place = plane[top : top + height, left : left + width]
                place[:] = tile[: place.shape[0], : place.shape[1]]
        yield plane


def _segments(page: Page, data: bytes, num_planes: int) -> Iterator[bytes]:
    """What is stored of each strip or tile."""
    tiled = _TILE_WIDTH in page.tags
    offsets = page.tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, ())
    sizes = page.tags.get(_TILE_SIZES if tiled else _STRIP_SIZES, ())
    height, width = page.segment
    expected = num_planes * math.ceil(page.height / height) * math.ceil(page.width / width)
    if not sizes and len(offsets) == 1:
        sizes = (len(data) - offsets[0],)
    if len(offsets) != expected or len(sizes) != expected:
        raise _broken(f"The TIFF file lists {len(offsets)} pieces of its image, and should {expected}.")
    for offset, size in zip(offsets, sizes, strict=True):
        end = offset + size
        if end > len(data):
            raise _broken(f"The TIFF file of {len(data)} bytes is cut off: a piece of its image ends at {end}.")
        piece = data[offset:end]
        yield piece.translate(_REVERSED) if page.get(_FILL_ORDER, 1) == 2 else piece


def _samples(page: Page, piece: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """A strip or tile (H, W, C), of the machine's byte order."""
    rows, columns, num_samples = shape
    row_bytes = math.ceil(columns * num_samples * page.bits / 8)
    unpacked = _uncompressed(page, piece, rows, row_bytes)
    if len(unpacked) < rows * row_bytes:
        raise _broken(f"A piece of the TIFF's image has {len(unpacked)} of {rows * row_bytes} bytes.")
    stored = np.frombuffer(unpacked, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
    if page.bits not in _WHOLE:
        blocks = np.array_split(stored, math.ceil(rows / 64))  # each bit takes two bytes for a while
        return np.concatenate([_unpack(block, columns * num_samples, page.bits) for block in blocks]).reshape(shape)
    if page.get(_PREDICTOR, 1) == 3:
        return _undo_float_predictor(page, stored, shape)
    values = stored.view(_dtype(page)).reshape(shape)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if page.get(_PREDICTOR, 1) == 2:
        integers = values.view(f"u{values.itemsize}")
        return integers.cumsum(axis=1, dtype=integers.dtype).view(values.dtype)
    return values


def _unpack(stored: np.ndarray, columns: int, bits: int) -> np.ndarray:
    """(H, bytes) of numbers of 9 to 15 bits, the highest bit first -> (H, columns) uint16."""
    by_number = np.unpackbits(stored, axis=1)[:, : columns * bits].reshape(len(stored), columns, bits)
    return by_number @ (2 ** np.arange(bits - 1, -1, -1)).astype(np.uint16)


def _undo_float_predictor(page: Page, stored: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Bytes of a row are stored by their significance, the highest first, as differences (Adobe's technical note 3)."""
    rows, columns, num_samples = shape
    by_sample = stored.reshape(rows, -1, num_samples).cumsum(axis=1, dtype=np.uint8)
    planes = by_sample.reshape(rows, page.bits // 8, columns * num_samples)
    values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{page.bits // 8}").reshape(shape)
    return values.astype(values.dtype.newbyteorder("="))


def _uncompressed(page: Page, piece: bytes, rows: int, row_bytes: int) -> bytes:
    if page.compression == _UNCOMPRESSED:
        return piece
    try:
        if page.compression in _DEFLATE:
            return zlib.decompressobj().decompress(piece, rows * row_bytes)
        with TiffImageFile(io.BytesIO(_as_grey_tiff(piece, page.compression, rows, row_bytes))) as image:
            return image.tobytes()
    except (OSError, SyntaxError, ValueError, zlib.error):
        raise _broken("A piece of the TIFF's image cannot be decompressed.") from None


def _as_grey_tiff(piece: bytes, compression: int, rows: int, row_bytes: int) -> bytes:
    """A TIFF whose 8-bit grey values are the bytes of `piece`, so that libtiff, inside of Pillow, decompresses them."""
    tags = {
        _WIDTH: row_bytes,
        _HEIGHT: rows,
        _BITS: 8,
        _COMPRESSION: compression,
        _PHOTOMETRIC: _BLACK_IS_ZERO,
        _STRIP_OFFSETS: 8,
        _SAMPLES: 1,
        _ROWS_PER_STRIP: rows,
        _STRIP_SIZES: len(piece),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    padding = b"\0" * (len(piece) % 2)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(piece) + len(padding)) + piece + padding + directory


def _dtype(page: Page) -> np.dtype:
    if page.bits not in _WHOLE:
        return np.dtype(np.uint16)
    return np.dtype(f"{page.endian}{_KINDS[page.get(_SAMPLE_FORMAT, 1)]}{page.bits // 8}")


def _broken(reason: str) -> ImageError:
    return ImageError("image_unreadable", reason)


def _not_read(page: Page, what: str) -> ImageError:
    return ImageError(
        "image_mode",
        f"{what}: {page.describe()}. Save it as grey (black is 0) or RGB of 8, 16 or 32 bits.",
    )
