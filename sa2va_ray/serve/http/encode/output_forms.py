"""The forms in which masks stand in a reply. A new form is a function and a line in `OUTPUT_FORMS`: the field of the
request, the field of each mask in the reply and the OpenAPI document follow from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.serve.http.encode.png import mask_to_base64_png, probabilities_to_base64_png
from sa2va_ray.serve.http.encode.polygons import mask_to_multipolygon, num_points


@dataclass(frozen=True)
class OutputForm:
    """How masks are written in a reply.

    Attributes:
        encode: what the reply holds for a mask, (H, W) bool; with `needs_probabilities` for its probabilities,
            (H, W) uint16, of 65535.
        json_type: type of that value.
        needs_probabilities: whether the model has to send probabilities.
        count_points: how many points `encode` makes for a mask. Points take much memory while they are made: with this
            function their number is limited, and one reply is encoded at a time.
    """

    encode: Callable[[np.ndarray], Any]
    json_type: Any
    needs_probabilities: bool = False
    count_points: Callable[[np.ndarray], int] | None = None


OUTPUT_FORMS: dict[str, OutputForm] = {
    "rle": OutputForm(mask_to_rle, dict[str, Any]),
    "polygons": OutputForm(mask_to_multipolygon, dict[str, Any], count_points=num_points),
    "png": OutputForm(mask_to_base64_png, str),
    "probability": OutputForm(probabilities_to_base64_png, str, needs_probabilities=True),
}
"""By the name that a request gives as `output`, which is also the name of the field in the reply."""
DEFAULT_OUTPUT = "rle"
