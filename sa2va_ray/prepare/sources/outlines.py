"""Outlines of round shapes as polygons."""

import math

import numpy as np

from sa2va_ray.prepare.records import Rejected

_MAX_ARC_ERROR_PX = 0.05
_MAX_ARC_POINTS = 4096


def ellipse_outline(centre: np.ndarray, first: np.ndarray, second: np.ndarray, max_pixels: int) -> np.ndarray:
    """The outline around `centre` with the half axes `first` and `second`, x, y each, as (P, 2).

    A chord of a circle of radius r keeps within r (1 - cos(pi / P)) of its arc.

    Raises:
        Rejected: no radius, or one that is larger than `max_pixels`.
    """
    radius = max(np.hypot(*first), np.hypot(*second))
    if not radius:
        raise Rejected("short_polygon", "A circle or ellipse has the radius 0.")
    if radius > max_pixels:
        raise Rejected("polygon_outside", f"A circle or ellipse has a radius of {radius:.3g} px; no image is so large.")
    number = math.ceil(math.pi / math.acos(max(-1.0, 1 - _MAX_ARC_ERROR_PX / radius))) if radius > 0.1 else 8
    angles = np.linspace(0, 2 * np.pi, min(max(8, number), _MAX_ARC_POINTS), endpoint=False)
    return centre + np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
