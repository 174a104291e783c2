"""What can be told in millimetres: where the pixel spacing of every image is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sa2va_ray.metrics.patients import Row, intervals, over_patients, per_image, per_patient

_NAME = ("hd95_mm",)
_SAME = 0.01  # by so much spacings may differ and be taken for one


def in_millimetres(rows: Sequence[Row]) -> dict[str, Any] | None:
    """`hd95` as a mean over images and patients with its interval; `pixel_spacing_mm`, the least and the greatest;
    `mm_per_px`, where pixels are square and as large in all images, else null. None where one image does not tell.

    Args:
        rows: each with `hd95_mm`, and `spacing_mm` (2,) in millimetres.
    """
    spacings = np.array([row["spacing_mm"] for row in rows])
    if np.isnan(spacings).any():
        return None
    least, greatest = float(spacings.min()), float(spacings.max())
    patients = per_patient(rows, _NAME)
    return {
        "pixel_spacing_mm": {"least": least, "greatest": greatest},
        "mm_per_px": float(spacings.mean()) if greatest <= least * (1 + _SAME) else None,
        "hd95": {
            "per_image": per_image(rows, _NAME)[_NAME[0]],
            "per_patient": over_patients(patients, _NAME)[_NAME[0]],
            "interval_95": intervals(patients, _NAME)[_NAME[0]],
        },
    }
