"""Encoded image files, from anybody, to pixels: PNG, JPEG, BMP, GIF and WebP by Pillow; TIFF, PNM and DICOM by the
modules of these names.

Files are checked before they are decoded, those that are cut off are refused, and whatever is found wrong is raised as
`ImageError`, whose text holds numbers only: messages of the libraries may quote names that are kept in a file.
"""

import io
import logging
import struct
from dataclasses import dataclass
from types import ModuleType

import cv2
import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sa2va_ray.images.checks import check_num_pixels, codec_errors, is_dicom
from sa2va_ray.images.files import IMAGE_KINDS
from sa2va_ray.images.formats import codestreams, gif, png, pnm, tiff
from sa2va_ray.models.sa2va.pixels_sa2va import (
    ImageError,
    check_finite,
    check_mode,
    colour_values,
    orientation_of,
    to_8_bits,
    to_grey,
    turned,
    values_to_pixels,
)

logging.getLogger("PIL").setLevel(logging.INFO)  # its debug lines quote the tags of a file

_READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    png.SIGNATURE: PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
    gif.SIGNATURE: GifImageFile,
    **dict.fromkeys(tiff.SIGNATURES, TiffImageFile),
    b"RIFF": WebPImageFile,
}
_GZIP = b"\x1f\x8b"
_COLOUR_MODES = ("RGB", "RGBA")
_PADDED = 4  # how many times the pixels of the largest image all tiles of a TIFF may have


def read_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the one image in a file, as its header says; nothing is decoded, and an EXIF orientation is
    not looked at.

    Raises:
        ImageError: no header of an image that is read.
    """
    if is_dicom(data):
        facts = dicom_reader().read_facts(data)
        return facts.height, facts.width
    if pnm.is_pnm(data):
        header = pnm.read_header(data)
        return header.height, header.width
    reader = _reader(data)
    if reader is TiffImageFile:
        page = select_page(tiff.read_pages(data), None)
        return page.height, page.width
    if reader is GifImageFile:
        return gif.read_size(data)
    with codec_errors():
        if reader is PngImageFile:
            width, height = struct.unpack_from(">II", data, len(png.SIGNATURE) + 8)  # of the chunk that is always first
            return height, width
        if reader is JpegImageFile:
            jpeg = codestreams.read_stream_facts(data)
            return jpeg.height, jpeg.width
        image = reader(io.BytesIO(data))
    return image.height, image.width


def decode_image_bytes(data: bytes, max_pixels: int, frame: int | None = None) -> np.ndarray:
    """Encoded image -> (H, W) or (H, W, 3) uint8 by `values_to_pixels`, turned as its EXIF orientation says.

    Args:
        max_pixels: height x width up to which an image is decoded at all.
        frame: page of a TIFF or frame of a DICOM file, from 0; None for files that hold one image, beside which a TIFF
            may have thumbnails.

    Raises:
        ImageError: the image cannot be used.
    """
    if is_dicom(data):
        return _decode_dicom(data, max_pixels, frame)
    stored = _load(data, max_pixels, frame)
    values = stored.values if stored.image is None else colour_values(stored.image, stored.values)
    if stored.white is not None:
        values = to_8_bits(values, 0, stored.white)
    return turned(values_to_pixels(values), stored.orientation)


def decode_mask_bytes(data: bytes, max_pixels: int, threshold: int | None = None) -> np.ndarray:
    """Encoded mask image -> (H, W) bool, turned as its EXIF orientation says.

    The values are those in the file; of a palette image the indices, not the colours. A GIF has nothing but palettes,
    so of it the colours count.

    Args:
        threshold: foreground is value >= threshold; a 1-bit image needs none. None: the image may hold 0 and one
            greater value, or one of these alone.

    Raises:
        ImageError: the image cannot be used, or what is foreground in it is not certain.
    """
    stored = _load(data, max_pixels, frame=None)
    return turned(_foreground(_single_channel(stored.values), threshold), stored.orientation)


def decode_label_bytes(data: bytes, max_pixels: int, as_colours: bool = False) -> np.ndarray:
    """Encoded image of class numbers -> (H, W) integers, turned as its EXIF orientation says.

    Args:
        as_colours: give 0xRRGGBB of each pixel's colour in place of the value in the file, of which palette images have
            the index.

    Raises:
        ImageError: the image cannot be used, is coloured and shall not be, or has values that are not whole.
    """
    stored = _load(data, max_pixels, frame=None)
    if not as_colours:
        values = _single_channel(stored.values)
        check_finite(values)
        if values.dtype.kind == "f" and (values % 1).any():
            raise ImageError("image_values", "The mask image has values that are no whole numbers.")
        return turned(values.astype(np.int64), stored.orientation)
    colours = stored.values if stored.image is None else colour_values(stored.image, stored.values)
    rgb = _opaque(colours) if colours.ndim == 3 else np.repeat(colours[..., None], 3, axis=2)
    if rgb.dtype != np.uint8:
        raise ImageError("image_mode", "A mask image whose colours mean something needs 8 bits a channel.")
    return turned(rgb.astype(np.int64) @ np.array([0x10000, 0x100, 1]), stored.orientation)


def padding_of(data: bytes, max_pixels: int, frame: int | None = None) -> np.ndarray | None:
    """(H, W) bool of the pixels that a file itself says to be no part of its image: a DICOM file's padding. None: all
    are.

    Args and raises: as `decode_image_bytes`.
    """
    return dicom_reader().frame_padding(data, frame or 0, max_pixels) if is_dicom(data) else None


def to_png(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 -> PNG, made from pixels alone, so that no metadata of a source can come along."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class _Stored:
    """What is in a file. `values`: (H, W) or (H, W, C), the numbers as they are stored. `image`: that of PIL, which may
    know more of palettes and transparency. `white`: the number that means white, where the file names one below 255."""

    values: np.ndarray
    orientation: int
    image: ImageFile.ImageFile | None = None
    white: int | None = None


def dicom_reader() -> ModuleType:
    """The module that reads DICOM, which needs an extra. Raises `ImageError` without it."""
    try:
        from sa2va_ray.images.formats import dicom
    except ModuleNotFoundError:
        raise ImageError(
            "dicom_missing", "The file is DICOM, and pydicom is not installed: pip install 'sa2va-ray[dicom]'."
        ) from None
    return dicom


def _decode_dicom(data: bytes, max_pixels: int, frame: int | None) -> np.ndarray:
    dicom = dicom_reader()
    if frame is None:
        num_frames = dicom.read_facts(data).num_frames
        if num_frames > 1:
            raise _several_images(f"{num_frames} frames")
    return dicom.decode_frame(data, frame or 0, max_pixels)


def _reader(data: bytes) -> type[ImageFile.ImageFile]:
    reader = next((reader for signature, reader in _READERS.items() if data.startswith(signature)), None)
    if reader is not None:
        return reader
    if data.startswith(_GZIP):
        raise ImageError("image_unreadable", "The file is packed by gzip; unpack it with gunzip.")
    raise ImageError(
        "image_unreadable",
        f"The {len(data)} bytes do not begin as a file that is read does: {', '.join(sorted(IMAGE_KINDS))} or DICOM.",
    )


def _load(data: bytes, max_pixels: int, frame: int | None) -> _Stored:
    if pnm.is_pnm(data):
        return _load_pnm(data, max_pixels, frame)
    reader = _reader(data)
    if reader is TiffImageFile:
        return _load_tiff(data, max_pixels, frame)
    if reader is PngImageFile:
        data = png.trimmed(data)
    elif reader is JpegImageFile:
        _check_jpeg(data)
    elif reader is GifImageFile:
        check_num_pixels(*gif.read_size(data), max_pixels)  # Pillow may allocate it, too
    elif reader is WebPImageFile:
        check_num_pixels(*_webp_size(data), max_pixels)  # Pillow allocates it before it tells the size
    image = _open(reader, data, max_pixels)
    if getattr(image, "is_animated", False):
        raise _several_images("several images")
    if frame:
        raise _no_frame(frame)
    with codec_errors():
        image.load()
    if reader is PngImageFile and image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2 ** data[24] - 1)  # bits; PIL scales the pixels alone
    if reader is GifImageFile:
        return _Stored(colour_values(image, np.asarray(image)), orientation=1)
    values = _wide_values(image, data) if _has_wide_colours(image, data) else np.asarray(image)
    return _Stored(values, orientation_of(image), image)


def _load_pnm(data: bytes, max_pixels: int, frame: int | None) -> _Stored:
    header = pnm.read_header(data)
    check_num_pixels(header.height, header.width, max_pixels)
    if frame:
        raise _no_frame(frame)
    values = pnm.read_values(data, header)
    return _Stored(values, orientation=1, white=header.white if header.white < 255 and values.dtype != bool else None)


def _open(reader: type[ImageFile.ImageFile], data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    # Not Image.open: its limits, and whether they warn or raise, are global state that anybody may change.
    with codec_errors():
        image = reader(io.BytesIO(data))
    check_num_pixels(image.height, image.width, max_pixels)
    check_mode(image)
    return image


def _load_tiff(data: bytes, max_pixels: int, frame: int | None) -> _Stored:
    page = select_page(tiff.read_pages(data), frame)
    check_num_pixels(page.height, page.width, max_pixels)
    check_num_pixels(*page.segment, max_pixels)  # a tile is allocated whole, for the smallest image
    check_num_pixels(*tiff.padded_size(page), _PADDED * max_pixels)
    tiff.check_interpretation(page)
    if not page.is_read_by_pillow:
        return _Stored(tiff.page_values(page, data), page.orientation)
    with codec_errors():
        image = TiffImageFile(io.BytesIO(data))
        image.seek(page.number)
    image.info.pop("xmp", None)  # whose orientation does not count
    check_num_pixels(image.height, image.width, max_pixels)
    check_mode(image)
    with codec_errors():
        image.load()  # which turns it, and takes the tag away
    return _Stored(np.asarray(image), orientation_of(image), image)


def select_page(pages: list[tiff.Page], frame: int | None) -> tiff.Page:
    """The page of a TIFF file that is its image, or `frame`. Raises `ImageError` for several, or none."""
    if frame is not None:
        if not 0 <= frame < len(pages):
            raise _no_frame(frame)
        return pages[frame]
    primary = [page for page in pages if not page.is_secondary] or pages
    if len(primary) > 1:
        raise _several_images(f"{len(primary)} images")
    return primary[0]


def _several_images(content: str) -> ImageError:
    return ImageError("image_frames", f"The file holds {content}; name one, or write one file for each.")


def _no_frame(frame: int) -> ImageError:
    return ImageError("image_frames", f"The file has no image with the number {frame}, counted from 0.")


def _check_jpeg(data: bytes) -> None:
    """A decoder is content when it has all rows, whether or not the file goes on to its end."""
    if not codestreams.has_end(data):
        raise ImageError("image_unreadable", f"The file of {len(data)} bytes is cut off: it has no end mark.")
    with codec_errors():
        facts = codestreams.read_stream_facts(data)
    if facts.bits != 8 or not facts.is_usual:
        kind = f"{facts.bits} bits a sample" if facts.is_usual else "the lossless or arithmetic kind"
        raise ImageError("image_mode", f"JPEG files of {kind} are not read; save it as PNG.")


def _webp_size(data: bytes) -> tuple[int, int]:
    """(height, width) by the header; (0, 0) where it is none."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF


def _has_wide_colours(image: ImageFile.ImageFile, data: bytes) -> bool:
    return isinstance(image, PngImageFile) and image.mode in _COLOUR_MODES and data[24] > 8  # bits, always there


def _wide_values(image: ImageFile.ImageFile, data: bytes) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) uint16 of a PNG, of which PIL drops the low bytes. It knows when a file is cut off, and
    OpenCV does not."""
    with codec_errors():
        PngImageFile(io.BytesIO(data)).verify()  # OpenCV allocates what a chunk claims, up to 4 GiB
        decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        values = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB if image.mode == "RGB" else cv2.COLOR_BGRA2RGBA)
    if not np.array_equal(values // 256, np.asarray(image)):
        raise ImageError("image_mode", "Two readers disagree on this 16-bit colour image; save it with 8 bits.")
    return values


def _single_channel(values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) -> (H, W); alpha must be opaque, and the other channels equal."""
    if values.ndim == 2:
        return values
    values = _opaque(values)
    grey = values[..., 0] if values.shape[2] == 1 else to_grey(values)
    if grey.ndim == 3:
        raise ImageError(
            "mask_colours",
            "The mask image is coloured; save it as grey, with 0 for background, or list its colours in `classes`.",
        )
    return grey


def _opaque(values: np.ndarray) -> np.ndarray:
    """(H, W, C) without its alpha, which must be opaque."""
    if values.shape[2] not in (2, 4):
        return values
    opaque = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    see_through = (values[..., -1] != opaque).sum()
    if see_through:
        raise ImageError(
            "mask_alpha",
            f"{see_through} pixels of the mask image are transparent; save it without transparency: as grey, or as RGB "
            "where its colours are classes.",
        )
    return values[..., :-1]


def _foreground(values: np.ndarray, threshold: int | None) -> np.ndarray:
    if values.dtype == bool:
        return values
    check_finite(values)
    if threshold is not None:
        return values >= threshold
    present = np.unique(values)
    if present[0] < 0 or (present > 0).sum() > 1:
        raise ImageError(
            "mask_values",
            f"The mask image has {len(present)} different values from {present[0]} to {present[-1]}; a mask has 0 and "
            "one greater value. Set mask_threshold in the config: foreground is value >= mask_threshold; or, where "
            "values are classes, list them in `classes`.",
        )
    return values > 0
