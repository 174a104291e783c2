"""Panels side by side: an image, its mask, and both together."""

from collections.abc import Mapping, Sequence

import numpy as np

from sa2va_ray.pictures.overlay import fit, hatched, outlined, tinted, to_rgb
from sa2va_ray.pictures.palette import FALSE_NEGATIVE, FALSE_POSITIVE, MASK, TRUE_POSITIVE, Rgb

MAX_PANEL_PX = 512
"""Longer side of a panel of `mask_panels` and `three_panels`; smaller images stay as they are."""
PANEL_LEGEND = tuple(
    (f"rgb{colour}", text)
    for colour, text in (
        (TRUE_POSITIVE, "vessel, found"),
        (FALSE_NEGATIVE, "vessel, missed"),
        (FALSE_POSITIVE, "drawn where no vessel is"),
    )
)
"""What the colours of `three_panels` mean, for the macro `legend` of a page."""
_GAP_PX = 4
IGNORED_GREY = 96
_FILL_OPACITY, _EDGE_OPACITY = 0.45, 0.6  # an image shows through its label


def mask_panels(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image, the mask in white, and the mask over the image.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.

    Returns:
        RGB uint8.
    """
    return side_by_side([at_most(panel) for panel in (image, _white(mask), tinted(image, mask))])


def three_panels(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, ignored: np.ndarray | None = None
) -> np.ndarray:
    """The image, its true mask in white, and the image with the prediction over it, in the colours of
    `PANEL_LEGEND`. What does not count is grey in the second, and hatched in the third.

    Args:
        image: (H, W, 3) uint8.
        truth, prediction: (H, W) bool.
        ignored: (H, W) bool of the pixels that do not count; None: all do.

    Returns:
        RGB uint8.
    """
    counts = np.ones_like(truth) if ignored is None else ~ignored
    compared = tinted(image, truth & prediction & counts, TRUE_POSITIVE)
    compared = tinted(compared, truth & ~prediction & counts, FALSE_NEGATIVE)
    compared = tinted(compared, prediction & ~truth & counts, FALSE_POSITIVE)
    shown = _white(truth & counts)
    shown[~counts] = IGNORED_GREY
    return side_by_side([at_most(panel) for panel in (image, shown, hatched(compared, ~counts))])


def label_panels(
    image: np.ndarray,
    masks: Mapping[str, np.ndarray],
    side_px: int,
    ignored: np.ndarray | None = None,
    colours: Mapping[str, Rgb] | None = None,
) -> np.ndarray:
    """The image, and beside it the same with a label's masks tinted and their outlines around them, and what does not
    count hatched. The vessel shows through, and one of a single pixel is seen however large the image is.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        masks: phrase -> (H, W) bool.
        side_px: longer side of a panel.
        ignored: (H, W) bool of the pixels that do not count; None: all do.
        colours: of the phrases; that of every mask by default.

    Returns:
        RGB uint8.
    """
    shown = marked = to_rgb(fit(image, side_px))
    for phrase, mask in masks.items():
        coverage, colour = fit(mask.astype(np.float32), side_px), (colours or {}).get(phrase, MASK)
        marked = outlined(tinted(marked, coverage, colour, _FILL_OPACITY), coverage, colour, _EDGE_OPACITY)
    if ignored is not None:
        marked = hatched(marked, fit(ignored.astype(np.float32), side_px) > 0.5)
    return side_by_side([shown, marked])


def _white(mask: np.ndarray) -> np.ndarray:
    return to_rgb(mask * np.uint8(255))


def at_most(panel: np.ndarray) -> np.ndarray:
    return fit(panel, MAX_PANEL_PX) if max(panel.shape) > MAX_PANEL_PX else panel


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Panels of one height, with white gaps."""
    gap = np.full((len(panels[0]), _GAP_PX, 3), 255, np.uint8)
    parts = [panels[0]]
    for panel in panels[1:]:
        parts += [gap, panel]
    return np.concatenate(parts, axis=1)
