"""What a caller may give: the kinds of image, the prompts, the options."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, Literal, TypedDict

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike = str | os.PathLike[str] | bytes | BinaryIO | Image
    """The path of an encoded file, its bytes, the file opened, or pixels, of which all bits are sent."""

Prompt = str | Sequence[str] | None
"""One question or several about the image; None leaves it to the endpoint."""


class AskOptions(TypedDict, total=False):
    """What goes with an image beside the prompt; what is left out is chosen by the endpoint."""

    threshold: float | None
    """Pixels of a greater probability belong to the mask; in [0, 1]."""
    cleanup: dict[str, int] | None
    """`close_px`, `open_px`, `min_component_px`, `max_hole_px`."""
    model: str | None
    """Name of a served model."""


class Options(AskOptions, total=False):
    """What goes with an image, and the form of the masks in the reply."""

    output: Literal["rle", "polygons", "png", "probability"]
