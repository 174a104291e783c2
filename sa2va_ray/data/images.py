"""Encoded image files, from anybody, to pixels: PNG, JPEG, TIFF and BMP; DICOM by `dicom.py`.

Files are checked before they are decoded, decoded wholly or not at all, and whatever is wrong with one is raised as
`ImageError`, whose text holds numbers only: messages of the libraries may quote names that are kept in a file.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

logging.getLogger("PIL").setLevel(logging.INFO)  # its debug lines quote the tags of a file

_READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
    b"II": TiffImageFile,
    b"MM": TiffImageFile,
}
_MARKS: dict[type, tuple[bytes, bytes]] = {  # what stands before the pixels, and at the end of the file
    PngImageFile: (b"IDAT", b"IEND\xaeB`\x82"),
    JpegImageFile: (b"\xff\xda", b"\xff\xd9"),
}
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16L", "I;16B", "F")
_COLOUR_MODES = ("RGB", "RGBA")

_BITS_PER_SAMPLE, _ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 258, 274, 322, 323  # TIFF and EXIF tags


class ImageError(ValueError):
    """The image cannot be used.

    Attributes:
        code: short name, to count by.
        reason: a sentence with numbers and cure, without any name of the source.
    """

    def __init__(self, code: str, reason: str):
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def is_dicom(data: bytes) -> bool:
    """Whether a file begins as DICOM files do."""
    return data[128:132] == b"DICM"


def decode_image_bytes(data: bytes, max_pixels: int, frame: int | None = None) -> np.ndarray:
    """Encoded image -> (H, W) or (H, W, 3) uint8, turned as its EXIF orientation says.

    Colours whose three channels are equal become grey. Samples of more than 8 bits are brought to 0..255 linearly from
    the least to the greatest value of the image, all channels together; a constant image becomes 0. Transparent
    pixels are laid over black.

    Args:
        max_pixels: height x width up to which an image is decoded at all.
        frame: page of a TIFF or frame of a DICOM file, from 0; None for files that hold one image.

    Raises:
        ImageError: the image cannot be used.
    """
    if is_dicom(data):
        return _decode_dicom(data, max_pixels, frame)
    with codec_errors():
        image = _load(data, max_pixels, frame)
        pixels = _to_bytes(_over_black(_colour_values(image, data, frame)))
        return np.ascontiguousarray(_turn(to_grey(pixels), image))


def decode_mask_bytes(data: bytes, max_pixels: int, threshold: int | None = None) -> np.ndarray:
    """Encoded mask image -> (H, W) bool, turned as its EXIF orientation says.

    The values are those in the file; of a palette image the indices, not the colours.

    Args:
        threshold: foreground is value >= threshold; a 1-bit image needs none. None: the image may hold 0 and one
            greater value, or one of these alone.

    Raises:
        ImageError: the image cannot be used, or what is foreground in it is not certain.
    """
    with codec_errors():
        image = _load(data, max_pixels, frame=None)
        values = _single_channel(_stored_values(image, data, frame=None))
        return np.ascontiguousarray(_turn(_foreground(values, threshold), image))


def to_png(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 -> PNG, made from pixels alone, so that no metadata of a source can come along."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def to_8_bits(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Numbers -> uint8 of the same shape, linearly so that `low` becomes 0 and `high` 255, and cut off beyond.

    Args:
        low, high: the least and the greatest of the values where they are not given; if they are equal, all becomes 0.

    Raises:
        ImageError: some values are not finite.
    """
    _check_finite(values)
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    if low == high:
        return np.zeros(values.shape, np.uint8)
    scaled = values.astype(np.float64)
    scaled -= low
    scaled *= 255
    scaled /= high - low
    return np.rint(scaled.clip(0, 255, out=scaled), out=scaled).astype(np.uint8)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) -> (H, W) if all channels are equal, else the same."""
    if pixels.ndim == 2:
        return pixels
    grey = cv2.extractChannel(pixels, 0)
    # As `(pixels == grey[..., None]).all()`, which takes 12 times as long.
    is_grey = cv2.norm(cv2.merge([grey] * pixels.shape[2]), pixels, cv2.NORM_INF) == 0
    return grey if is_grey else pixels


def check_num_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raises `ImageError` if an image is empty or has more than `max_pixels`."""
    if not 0 < height * width <= max_pixels:
        raise ImageError(
            "image_too_large",
            f"The image says it has {width} x {height} px; 1 to {max_pixels} px are decoded. Make it smaller, or raise "
            "the limit.",
        )


@contextmanager
def codec_errors() -> Iterator[None]:
    """Turns what a decoder raises for a broken file, which may be any exception, into `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except Exception:
        raise ImageError(
            "image_unreadable", "The image file is broken, cut off, or of a kind that is not read; save it as PNG."
        ) from None


def _decode_dicom(data: bytes, max_pixels: int, frame: int | None) -> np.ndarray:
    try:
        from sa2va_ray.data import dicom
    except ModuleNotFoundError:
        raise ImageError(
            "dicom_missing", "The file is DICOM, and pydicom is not installed: pip install 'sa2va-ray[dicom]'."
        ) from None
    if frame is None:
        num_frames = dicom.read_facts(data).num_frames
        if num_frames > 1:
            raise _several_images(f"{num_frames} frames")
    return dicom.decode_frame(data, frame or 0, max_pixels)


def _load(data: bytes, max_pixels: int, frame: int | None) -> ImageFile.ImageFile:
    """The image, checked and decoded, but for the low bytes of wide colours."""
    reader = next((reader for signature, reader in _READERS.items() if data.startswith(signature)), None)
    if reader is None:
        raise ImageError(
            "image_unreadable", f"The {len(data)} bytes do not begin as a PNG, JPEG, TIFF, BMP or DICOM file does."
        )
    # Not Image.open: its limits, and whether they warn or raise, are global state that anybody may change.
    image = reader(io.BytesIO(data))
    _check_header(image, max_pixels)
    _select_page(image, frame)
    _check_header(image, max_pixels)
    _check_complete(image, data)
    image.load()
    return image


def _check_header(image: ImageFile.ImageFile, max_pixels: int) -> None:
    check_num_pixels(image.height, image.width, max_pixels)
    if isinstance(image, TiffImageFile) and _TILE_WIDTH in image.tag_v2:  # allocated whole, for the smallest image
        check_num_pixels(image.tag_v2[_TILE_HEIGHT], image.tag_v2[_TILE_WIDTH], max_pixels)
    if image.mode not in _MODES:
        raise ImageError(
            "image_mode",
            f"Pixels of the kind {image.mode} are not read, as their grey values are ambiguous; save as RGB.",
        )


def _select_page(image: ImageFile.ImageFile, frame: int | None) -> None:
    if isinstance(image, TiffImageFile) and frame is not None:
        try:
            image.seek(frame)
        except EOFError:
            raise _no_frame(frame) from None
    elif getattr(image, "is_animated", False):
        raise _several_images("several images")
    elif frame:
        raise _no_frame(frame)


def _several_images(content: str) -> ImageError:
    return ImageError("image_frames", f"The file holds {content}; name one, or write one file for each.")


def _no_frame(frame: int) -> ImageError:
    return ImageError("image_frames", f"The file has no image with the number {frame}, counted from 0.")


def _check_complete(image: ImageFile.ImageFile, data: bytes) -> None:
    """A decoder is content when it has all rows, whether or not the file goes on to its end."""
    start, end = _MARKS.get(type(image), (b"", b""))
    if data.rfind(end) < data.rfind(start):
        raise ImageError("image_unreadable", f"The file of {len(data)} bytes is cut off: it has no end mark.")


def _has_wide_colours(image: ImageFile.ImageFile, data: bytes) -> bool:
    if image.mode not in _COLOUR_MODES:
        return False
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2[_BITS_PER_SAMPLE]) > 8
    return isinstance(image, PngImageFile) and data[24] > 8  # bit depth, in a chunk that is always first


def _stored_values(image: ImageFile.ImageFile, data: bytes, frame: int | None) -> np.ndarray:
    """(H, W) or (H, W, C), the numbers as they are in the file."""
    if not _has_wide_colours(image, data):
        return np.asarray(image)
    # PIL drops the low bytes of these. It knows when a file is cut off, and OpenCV does not.
    type(image)(io.BytesIO(data)).verify()  # OpenCV allocates what a chunk of PNG claims, up to 4 GiB
    page = frame or 0
    _, decoded = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(page, page + 1))
    values = cv2.cvtColor(decoded[0], cv2.COLOR_BGR2RGB if image.mode == "RGB" else cv2.COLOR_BGRA2RGBA)
    if not np.array_equal(values // 256, np.asarray(image)):
        raise ImageError("image_mode", "Two readers disagree on this 16-bit colour image; save it with 8 bits.")
    return values


def _colour_values(image: ImageFile.ImageFile, data: bytes, frame: int | None) -> np.ndarray:
    """(H, W) or (H, W, C) with C of 2 (grey, alpha), 3 or 4 (RGB, alpha): palettes and colour keys are resolved."""
    if image.mode not in ("P", "PA") and "transparency" not in image.info:
        return _stored_values(image, data, frame)
    if image.mode.startswith("I") or _has_wide_colours(image, data):
        raise ImageError("image_mode", "One 16-bit value stands for transparent pixels; save the image without it.")
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _over_black(values: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, C) with alpha or without -> without."""
    if values.ndim == 2 or values.shape[2] == 3:
        return values
    colours, alpha = values[..., :-1], values[..., -1:]
    if not alpha.any():
        raise ImageError("image_transparent", "Every pixel is fully transparent; save the image without alpha channel.")
    opaque = np.iinfo(values.dtype).max
    if (alpha == opaque).all():
        return colours
    return np.rint(colours * (alpha / opaque)).astype(values.dtype)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return values * np.uint8(255)
    return values if values.dtype == np.uint8 else to_8_bits(values)


def _turn(pixels: np.ndarray, image: ImageFile.ImageFile) -> np.ndarray:
    """Pixels as stored -> as they are to be seen. PIL has done it already for TIFF, and taken the tag away."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _single_channel(values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) -> (H, W); alpha must be opaque, and the other channels equal."""
    if values.ndim == 2:
        return values
    if values.shape[2] in (2, 4):
        see_through = (values[..., -1] != np.iinfo(values.dtype).max).sum()
        if see_through:
            raise ImageError("mask_alpha", f"{see_through} pixels of the mask image are transparent; save it as grey.")
        values = values[..., :-1]
    grey = to_grey(values)
    if grey.ndim == 3:
        raise ImageError("mask_colours", "The mask image is coloured; save it as grey, with 0 for background.")
    return grey


def _foreground(values: np.ndarray, threshold: int | None) -> np.ndarray:
    if values.dtype == bool:
        return values
    _check_finite(values)
    if threshold is not None:
        return values >= threshold
    present = np.unique(values)
    if present[0] < 0 or (present > 0).sum() > 1:
        raise ImageError(
            "mask_values",
            f"The mask image has {len(present)} different values from {present[0]} to {present[-1]}; a mask has 0 and "
            "one greater value. Set mask_threshold in the config: foreground is value >= mask_threshold.",
        )
    return values > 0


def _check_finite(values: np.ndarray) -> None:
    bad = values.size - np.isfinite(values).sum()
    if bad:
        raise ImageError("image_values", f"{bad} of {values.size} values of the image are not finite numbers.")
