"""Pictures with captions, and a contact sheet of them in a grid."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP_PX = 4
_CAPTION_PX = 22
_FONT_PX = 15
_WEBP_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A picture to be shown to people.

    Attributes:
        caption: plain text without any name of a source.
        pixels: (H, W, 3) uint8 RGB.
    """

    caption: str
    pixels: np.ndarray = field(repr=False)

    @cached_property
    def webp(self) -> bytes:
        """As a file, made from pixels alone, so that no metadata of a source can come along."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, format="WEBP", quality=_WEBP_QUALITY)
        return buffer.getvalue()


def contact_sheet(pictures: Sequence[Picture], columns: int) -> np.ndarray:
    """The pictures, of one size or of several, row by row, each with its caption below, which is cut to the cell's
    width. White where nothing is. RGB uint8."""
    columns = min(columns, max(1, len(pictures)))
    width = max((picture.pixels.shape[1] for picture in pictures), default=0) + 2 * _GAP_PX
    height = max((picture.pixels.shape[0] for picture in pictures), default=0) + _CAPTION_PX + 2 * _GAP_PX
    rows = max(1, -(-len(pictures) // columns))
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    font = ImageFont.load_default(size=_FONT_PX)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        cell = Image.new("RGB", (width, height), "white")
        cell.paste(Image.fromarray(picture.pixels), (_GAP_PX, _GAP_PX))
        caption_top = _GAP_PX + len(picture.pixels) + 2
        ImageDraw.Draw(cell).text((_GAP_PX, caption_top), picture.caption.replace("\n", " "), fill="black", font=font)
        sheet.paste(cell, (column * width, row * height))
    return np.asarray(sheet)
