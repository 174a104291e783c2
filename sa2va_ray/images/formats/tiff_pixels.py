"""Samples of a TIFF of any width, which no library here reads rightly.

Pillow mixes up the bytes of compressed big-endian samples, drops the low ones of colours, wraps signed and unsigned
around, and does not invert wide WhiteIsZero; OpenCV reads planes and alpha wrongly. So only the codecs are theirs.

Shapes: H W pixels, C samples of a pixel.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from sa2va_ray.images.formats.tiff import PACKBITS, UNCOMPRESSED, Page, Photometric, Tag, broken, not_read
from sa2va_ray.models.sa2va.pixels_sa2va import white_is_zero

_DEFLATE = (8, 32946)
_BY_LIBTIFF = (5, PACKBITS, 34925, 50000)  # LZW, PackBits, LZMA, Zstandard
_WHOLE = (8, 16, 32, 64)  # bits that fill a number of numpy
_KINDS = {1: "u", 2: "i", 3: "f"}  # by sample format
_PREMULTIPLIED, _ALPHA = 1, 2  # meanings of an extra sample
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def padded_size(page: Page) -> tuple[int, int]:
    """(height, width) of all tiles together, which reach beyond the image."""
    height, width = page.segment
    if not height or not width:
        raise broken(f"The TIFF file says that a piece of its image has {width} x {height} px.")
    return math.ceil(page.height / height) * height, math.ceil(page.width / width) * width


def page_values(page: Page, data: bytes) -> np.ndarray:
    """(H, W) or (H, W, C) samples as they are stored, white the greatest; alpha is the last of 2 or 4.

    Raises:
        ImageError: the file is broken, or its samples are of a kind that is not read.
    """
    _check_kind(page)
    values = np.concatenate(list(_planes(page, data)), axis=2)
    num_colours = 3 if page.photometric == Photometric.RGB else 1
    colours, extra = values[..., :num_colours], values[..., num_colours:]
    if page.photometric == Photometric.WHITE_IS_ZERO:
        colours = _inverted(colours, page.bits)
    values = colours if num_colours == 3 else colours[..., 0]
    default = _ALPHA if num_colours == 3 else 0
    if not extra.size or page.get(Tag.EXTRA_SAMPLES, default) not in (_PREMULTIPLIED, _ALPHA):
        return values
    if page.get(Tag.EXTRA_SAMPLES, default) == _PREMULTIPLIED:  # which is: laid over black
        return values
    return np.dstack([values, extra[..., 0]])


def _check_kind(page: Page) -> None:
    num_colours = 3 if page.photometric == Photometric.RGB else 1
    bits, formats = set(page.tags.get(Tag.BITS, (1,))), set(page.tags.get(Tag.SAMPLE_FORMAT, (1,)))
    kind = _KINDS.get(page.get(Tag.SAMPLE_FORMAT, 1))
    widths = {"u": (*range(8, 17), 32, 64), "i": _WHOLE, "f": (16, 32, 64), None: ()}[kind]
    is_known = (
        page.photometric in (Photometric.WHITE_IS_ZERO, Photometric.BLACK_IS_ZERO, Photometric.RGB)
        and len(bits) == len(formats) == 1
        and page.bits in widths
        and num_colours <= page.num_samples <= num_colours + 1
        and (page.num_samples != 2 or page.get(Tag.EXTRA_SAMPLES, 0) in (_PREMULTIPLIED, _ALPHA))  # else two images
        and page.compression in (UNCOMPRESSED, *_DEFLATE, *_BY_LIBTIFF)
        and page.get(Tag.PREDICTOR, 1) in ((1, 2, 3) if kind == "f" else (1, 2))
        and (page.bits in _WHOLE or (page.get(Tag.PREDICTOR, 1) == 1 and page.num_samples == num_colours))
    )
    if not is_known:
        raise not_read(page, "This TIFF is not read")


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
                rows = height if Tag.TILE_WIDTH in page.tags else min(height, page.height - top)
                tile = _samples(page, next(segments), (rows, width, num_samples))
                place = plane[top : top + height, left : left + width]
                place[:] = tile[: place.shape[0], : place.shape[1]]
        yield plane


def _segments(page: Page, data: bytes, num_planes: int) -> Iterator[bytes]:
    """What is stored of each strip or tile."""
    tiled = Tag.TILE_WIDTH in page.tags
    offsets = page.tags.get(Tag.TILE_OFFSETS if tiled else Tag.STRIP_OFFSETS, ())
    sizes = page.tags.get(Tag.TILE_SIZES if tiled else Tag.STRIP_SIZES, ())
    height, width = page.segment
    expected = num_planes * math.ceil(page.height / height) * math.ceil(page.width / width)
    if not sizes and len(offsets) == 1:
        sizes = (len(data) - offsets[0],)
    if len(offsets) != expected or len(sizes) != expected:
        raise broken(f"The TIFF file lists {len(offsets)} pieces of its image, and should {expected}.")
    for offset, size in zip(offsets, sizes, strict=True):
        end = offset + size
        if end > len(data):
            raise broken(f"The TIFF file of {len(data)} bytes is cut off: a piece of its image ends at {end}.")
        piece = data[offset:end]
        yield piece.translate(_REVERSED) if page.get(Tag.FILL_ORDER, 1) == 2 else piece


def _samples(page: Page, piece: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """A strip or tile (H, W, C), of the machine's byte order."""
    rows, columns, num_samples = shape
    row_bytes = math.ceil(columns * num_samples * page.bits / 8)
    unpacked = _uncompressed(page, piece, rows, row_bytes)
    if len(unpacked) < rows * row_bytes:
        raise broken(f"A piece of the TIFF's image has {len(unpacked)} of {rows * row_bytes} bytes.")
    stored = np.frombuffer(unpacked, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
    if page.bits not in _WHOLE:
        blocks = np.array_split(stored, math.ceil(rows / 64))  # each bit takes two bytes for a while
        return np.concatenate([_unpack(block, columns * num_samples, page.bits) for block in blocks]).reshape(shape)
    if page.get(Tag.PREDICTOR, 1) == 3:
        return _undo_float_predictor(page, stored, shape)
    values = stored.view(_dtype(page)).reshape(shape)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if page.get(Tag.PREDICTOR, 1) == 2:
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
    if page.compression == UNCOMPRESSED:
        return piece
    try:
        if page.compression in _DEFLATE:
            return zlib.decompressobj().decompress(piece, rows * row_bytes)
        with TiffImageFile(io.BytesIO(_as_grey_tiff(piece, page.compression, rows, row_bytes))) as image:
            return image.tobytes()
    except (OSError, SyntaxError, ValueError, zlib.error):
        raise broken("A piece of the TIFF's image cannot be decompressed.") from None


def _as_grey_tiff(piece: bytes, compression: int, rows: int, row_bytes: int) -> bytes:
    """A TIFF whose 8-bit grey values are the bytes of `piece`, so that libtiff, inside of Pillow, decompresses them."""
    tags = {
        Tag.WIDTH: row_bytes,
        Tag.HEIGHT: rows,
        Tag.BITS: 8,
        Tag.COMPRESSION: compression,
        Tag.PHOTOMETRIC: Photometric.BLACK_IS_ZERO,
        Tag.STRIP_OFFSETS: 8,
        Tag.SAMPLES: 1,
        Tag.ROWS_PER_STRIP: rows,
        Tag.STRIP_SIZES: len(piece),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    padding = b"\0" * (len(piece) % 2)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(piece) + len(padding)) + piece + padding + directory


def _dtype(page: Page) -> np.dtype:
    if page.bits not in _WHOLE:
        return np.dtype(np.uint16)
    return np.dtype(f"{page.endian}{_KINDS[page.get(Tag.SAMPLE_FORMAT, 1)]}{page.bits // 8}")
