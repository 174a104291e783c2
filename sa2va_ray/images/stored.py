"""The numbers that are stored in an image file: of PNG, JPEG, BMP, GIF and WebP by Pillow, of TIFF and PNM by the
modules of these names. What the numbers mean, as pixels, as a mask or as classes, `decode.py` says."""

import io
import logging
import struct
from dataclasses import dataclass

import numpy as np
from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sa2va_ray.images.checks import check_num_pixels, codec_errors, no_frame, several_images
from sa2va_ray.images.files import IMAGE_KINDS
from sa2va_ray.images.formats import codestreams, gif, png, pnm, tiff, tiff_pixels, webp
from sa2va_ray.models.sa2va.pixels_sa2va import ImageError, check_mode, colour_values, orientation_of

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
_PADDED = 4  # how many times the pixels of the largest image all tiles of a TIFF may have


@dataclass(frozen=True)
class Stored:
    """What is in a file. `values`: (H, W) or (H, W, C), the numbers as they are stored. `image`: that of PIL, which may
    know more of palettes and transparency. `white`: the number that means white, where the file names one below 255."""

    values: np.ndarray
    orientation: int
    image: ImageFile.ImageFile | None = None
    white: int | None = None


def stored_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the one image in a file, as its header says; nothing is decoded.

    Raises:
        ImageError: no header of an image that is read.
    """
    if pnm.is_pnm(data):
        header = pnm.read_header(data)
        return header.height, header.width
    reader = _reader(data)
    if reader is TiffImageFile:
        page = tiff.select_page(tiff.read_pages(data), None)
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


def read_stored(data: bytes, max_pixels: int, frame: int | None) -> Stored:
    """What is stored of a file's one image, or of `frame`. Args and raises: as `decode_image_bytes` (`decode.py`)."""
    if pnm.is_pnm(data):
        return _load_pnm(data, max_pixels, frame)
    reader = _reader(data)
    if reader is TiffImageFile:
        return _load_tiff(data, max_pixels, frame)
    if reader is PngImageFile:
        data = png.trimmed(data)
    elif reader is JpegImageFile:
        codestreams.check_jpeg(data)
    elif reader is GifImageFile:
        check_num_pixels(*gif.read_size(data), max_pixels)  # Pillow may allocate it, too
    elif reader is WebPImageFile:
        check_num_pixels(*webp.read_size(data), max_pixels)  # Pillow allocates it before it tells the size
    image = _open(reader, data, max_pixels)
    if getattr(image, "is_animated", False):
        raise several_images("several images")
    if frame:
        raise no_frame(frame)
    with codec_errors():
        image.load()
    if reader is PngImageFile and image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2 ** data[24] - 1)  # bits; PIL scales the pixels alone
    if reader is GifImageFile:
        return Stored(colour_values(image, np.asarray(image)), orientation=1)
    values = png.wide_values(image, data) if png.has_wide_colours(image, data) else np.asarray(image)
    return Stored(values, orientation_of(image), image)


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


def _load_pnm(data: bytes, max_pixels: int, frame: int | None) -> Stored:
    header = pnm.read_header(data)
    check_num_pixels(header.height, header.width, max_pixels)
    if frame:
        raise no_frame(frame)
    values = pnm.read_values(data, header)
    return Stored(values, orientation=1, white=header.white if header.white < 255 and values.dtype != bool else None)


def _open(reader: type[ImageFile.ImageFile], data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    # Not Image.open: its limits, and whether they warn or raise, are global state that anybody may change.
    with codec_errors():
        image = reader(io.BytesIO(data))
    check_num_pixels(image.height, image.width, max_pixels)
    check_mode(image)
    return image


def _load_tiff(data: bytes, max_pixels: int, frame: int | None) -> Stored:
    page = tiff.select_page(tiff.read_pages(data), frame)
    check_num_pixels(page.height, page.width, max_pixels)
    check_num_pixels(*page.segment, max_pixels)  # a tile is allocated whole, for the smallest image
    check_num_pixels(*tiff_pixels.padded_size(page), _PADDED * max_pixels)
    tiff.check_interpretation(page)
    if not page.is_read_by_pillow:
        return Stored(tiff_pixels.page_values(page, data), page.orientation)
    with codec_errors():
        image = TiffImageFile(io.BytesIO(data))
        image.seek(page.number)
    image.info.pop("xmp", None)  # whose orientation does not count
    check_num_pixels(image.height, image.width, max_pixels)
    check_mode(image)
    with codec_errors():
        image.load()  # which turns it, and takes the tag away
    return Stored(np.asarray(image), orientation_of(image), image)
