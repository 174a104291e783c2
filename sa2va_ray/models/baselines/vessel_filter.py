"""Classical vessel filters, and the step function that turns their response into probabilities."""

from typing import Literal

import cv2
import numpy as np
from PIL import Image
from skimage.filters import frangi, sato

from sa2va_ray.config import Config
from sa2va_ray.models.baselines.config import FilterConfig

Polarity = Literal["bright", "dark"]
POLARITIES: tuple[Polarity, ...] = ("bright", "dark")

_GREEN = 1
_SMALLEST_STD = 1e-6  # of an image without any contrast


class FittedFilter(Config):
    """A filter with what was learned on training patients."""

    filter: FilterConfig
    polarity: Polarity
    """Whether vessels are brighter or darker than what is around them."""
    cuts: tuple[float, ...]
    """Responses at which the probability steps up, ascending."""
    levels: tuple[float, ...]
    """Probabilities in [0, 1], ascending: that below the first cut, then from each cut on."""

    def probabilities(self, image: Image.Image) -> np.ndarray:
        """RGB image of any size -> (H, W) float32 in [0, 1]."""
        response = filter_response(image, self.filter, self.polarity)
        return np.array(self.levels, np.float32)[np.searchsorted(self.cuts, response, side="right")]


def filter_response(image: Image.Image, config: FilterConfig, polarity: Polarity) -> np.ndarray:
    """RGB image of any size -> (H, W) float32 >= 0, larger where a vessel is more likely.

    Brightness is standardised first, so that contrast does not change the response. Of the colours green is taken:
    it shows vessels best in fundus images, and is as good as any in grey ones.
    """
    green = np.asarray(image)[..., _GREEN].astype(np.float32)
    green = (green - green.mean()) / max(float(green.std()), _SMALLEST_STD)
    if config.method == "top_hat":
        return _top_hat(green, config.widths_px, polarity)
    # The second derivative of a bar of width w, normalised as these filters do, is largest at a sigma of w / 2.
    sigmas = [width / 2 for width in config.widths_px]
    ridges = frangi if config.method == "frangi" else sato
    return ridges(green, sigmas=sigmas, black_ridges=polarity == "dark").astype(np.float32)


def _top_hat(green: np.ndarray, widths_px: tuple[float, ...], polarity: Polarity) -> np.ndarray:
    operation = cv2.MORPH_TOPHAT if polarity == "bright" else cv2.MORPH_BLACKHAT
    sides = [2 * int(width // 2) + 3 for width in widths_px]  # odd, and wider than the vessel, which does not fit then
    elements = [cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)) for side in sides]
    return np.stack([cv2.morphologyEx(green, operation, element) for element in elements]).mean(axis=0)
