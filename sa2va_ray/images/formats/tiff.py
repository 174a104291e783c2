"""TIFF by its tags: which pages a file has, and which of them is the image."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from sa2va_ray.images.checks import no_frame, several_images
from sa2va_ray.models.sa2va.pixels_sa2va import ImageError

SIGNATURES = (b"II", b"MM")


class Tag(IntEnum):
    """Those that are read; their names are those of the standard (TIFF 6.0), shortened."""

    SUBFILE = 254
    OLD_SUBFILE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_SIZES = 279
    X_RESOLUTION = 282
    Y_RESOLUTION = 283
    PLANAR = 284
    RESOLUTION_UNIT = 296
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_SIZES = 325
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339


class Photometric(IntEnum):
    """What the samples of a pixel mean."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    YCBCR = 6


UNCOMPRESSED, PACKBITS = 1, 32773  # kinds of compression
_READ = frozenset(Tag)
# Unsigned integers, which all these tags are; a fraction is two of them.
_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 13: "I", 16: "Q", 18: "Q"}
# Bytes of a number of each type, also of those that are passed over.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_KIND_NAMES = {1: "unsigned", 2: "signed", 3: "floating point", 4: "untyped", 5: "complex", 6: "complex"}
_MAX_PAGES = 65_536


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
        return self.get(Tag.HEIGHT, 0)

    @property
    def width(self) -> int:
        return self.get(Tag.WIDTH, 0)

    @property
    def segment(self) -> tuple[int, int]:
        """(height, width) of a tile or strip; of the last strip, more than there is."""
        if Tag.TILE_WIDTH in self.tags:
            return self.get(Tag.TILE_HEIGHT, 0), self.get(Tag.TILE_WIDTH, 0)
        return min(self.get(Tag.ROWS_PER_STRIP, self.height), self.height), self.width

    @property
    def num_samples(self) -> int:
        return self.get(Tag.SAMPLES, 1)

    @property
    def bits(self) -> int:
        return self.get(Tag.BITS, 1)

    @property
    def photometric(self) -> int:
        """-1 where the page does not say it."""
        return self.get(Tag.PHOTOMETRIC, -1)

    @property
    def compression(self) -> int:
        return self.get(Tag.COMPRESSION, UNCOMPRESSED)

    @property
    def is_planar(self) -> bool:
        return self.get(Tag.PLANAR, 1) == 2 and self.num_samples > 1

    @property
    def orientation(self) -> int:
        return self.get(Tag.ORIENTATION, 1)

    @property
    def is_secondary(self) -> bool:
        """Whether it is a thumbnail or a mask of another page."""
        return self.get(Tag.SUBFILE, 0) & 0b101 != 0 or self.get(Tag.OLD_SUBFILE, 1) == 2

    @property
    def is_read_by_pillow(self) -> bool:
        """Samples of up to 8 bits, in the combinations that Pillow reads as the tags say."""
        if max(self.tags.get(Tag.BITS, (1,))) > 8 or set(self.tags.get(Tag.SAMPLE_FORMAT, (1,))) != {1}:
            return False
        if self.get(Tag.PREDICTOR, 1) != 1 and self.compression in (UNCOMPRESSED, PACKBITS):
            return False  # where libtiff does not heed it
        if self.photometric in (Photometric.WHITE_IS_ZERO, Photometric.BLACK_IS_ZERO):
            return self.num_samples == 1 and self.bits in (1, 2, 4, 8)
        return not self.is_planar or self.photometric == Photometric.RGB

    def describe(self) -> str:
        """Its tags in words."""
        kind = _KIND_NAMES.get(self.get(Tag.SAMPLE_FORMAT, 1), "unknown")
        bits = "+".join(str(each) for each in self.tags.get(Tag.BITS, (1,))[:8])
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
            raise broken(f"The file begins as TIFF does, but its version is {magic}, not 42 or 43.")
        (position,) = struct.unpack_from(f"{endian}{'Q' if magic == 43 else 'I'}", data, 8 if magic == 43 else 4)
        return list(_pages(data, endian, magic == 43, position))
    except struct.error:
        raise broken(f"The TIFF file of {len(data)} bytes is cut off, or its directory points out of it.") from None


def select_page(pages: list[Page], frame: int | None) -> Page:
    """The page of a TIFF file that is its image, or `frame`. Raises `ImageError` for several, or none."""
    if frame is not None:
        if not 0 <= frame < len(pages):
            raise no_frame(frame)
        return pages[frame]
    primary = [page for page in pages if not page.is_secondary] or pages
    if len(primary) > 1:
        raise several_images(f"{len(primary)} images")
    return primary[0]


def check_interpretation(page: Page) -> None:
    """Raises `ImageError` where the tags do not say what the samples mean, or say something that is not read."""
    if page.photometric not in set(Photometric):
        missing = Tag.PHOTOMETRIC not in page.tags
        said = "does not say which of its values is white (no photometric interpretation)" if missing else "is not read"
        raise not_read(page, f"This TIFF {said}")


def broken(reason: str) -> ImageError:
    """For a file that does not hold what its tags say."""
    return ImageError("image_unreadable", reason)


def not_read(page: Page, what: str) -> ImageError:
    """For a page that is sound, and of a kind that is not read."""
    return ImageError(
        "image_mode",
        f"{what}: {page.describe()}. Save it as grey (black is 0) or RGB of 8, 16 or 32 bits.",
    )


def _pages(data: bytes, endian: str, big: bool, position: int) -> Iterator[Page]:
    seen: set[int] = set()
    while position and position not in seen:
        if len(seen) == _MAX_PAGES:
            raise broken(f"The TIFF file has more than {_MAX_PAGES} pages.")
        seen.add(position)
        tags, position = _directory(data, endian, big, position)
        yield Page(len(seen) - 1, tags, endian)
    if not seen:
        raise broken("The TIFF file has no image.")


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
        raise broken(f"The TIFF file of {len(data)} bytes says that a page has {count} tags.")
    for at in range(position, position + count * size, size):
        tag, kind, length = struct.unpack_from(entry, data, at)
        left -= length * _SIZES.get(kind, 1)
        if left < 0:
            raise broken(f"The tags of the TIFF file hold more than its {len(data)} bytes.")
        if kind not in _TYPES or tag not in _READ:
            continue
        start = at + size - inline
        if length * _SIZES[kind] > inline:
            (start,) = struct.unpack_from(endian + ("Q" if big else "I"), data, start)
        tags[tag] = struct.unpack_from(f"{endian}{length * len(_TYPES[kind])}{_TYPES[kind][0]}", data, start)
    (following,) = struct.unpack_from(endian + ("Q" if big else "I"), data, position + count * size)
    return tags, following
