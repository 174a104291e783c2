"""A model's answer as Label Studio keeps it: a prediction, in which each mask is a region of brush strokes."""

import re
import uuid
from collections.abc import Sequence
from typing import Any

from sa2va_ray.label_studio.interface import LabelConfig

PROVENANCE = "sa2va"
"""Field of a task's data that says which image it shows, and what was predicted; `jobs.label_queue` writes it."""

_VERSION = re.compile(r".+@[0-9a-f]{12}", re.DOTALL)


def model_version(name: str, sha256: str) -> str:
    """Name and beginning of the hash of a model. Label Studio shows it beside a prediction."""
    return f"{name}@{sha256[:12]}"


def is_model_version(text: Any) -> bool:
    """Whether `model_version` made a text: then the prediction that it stands at is ours, and did not fail."""
    return isinstance(text, str) and _VERSION.fullmatch(text) is not None


def brush_region(
    config: LabelConfig, label: str, score: float, size: tuple[int, int], rle: Sequence[int]
) -> dict[str, Any]:
    """A mask as a result of a prediction.

    Args:
        size: (H, W) of the image.
        rle: of `mask_to_brush_rle`.
    """
    return {
        "id": uuid.uuid4().hex[:10],
        "from_name": config.from_name,
        "to_name": config.to_name,
        "type": "brushlabels",
        "original_height": size[0],
        "original_width": size[1],
        "image_rotation": 0,
        "score": score,
        "value": {"format": "rle", "rle": rle, "brushlabels": [label]},
    }
