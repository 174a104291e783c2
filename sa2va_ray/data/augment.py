"""Augmentation of an image together with its masks.

Image and masks take the same flips and turns, then at most one interpolation: affine and elastic are composed into one
map. The image is resampled bicubically, because bilinear keeps only 0.79 of the finest contrast of OCT-A images where
bicubic keeps 0.97. What follows changes the image alone: CLAHE, one table for contrast, gamma and inversion, blur,
noise.

Every step has a stream of random numbers of its own, so that a step that is switched off, or that has another
magnitude, changes nothing of what the others draw.
"""

import math
from typing import Annotated, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from sa2va_ray.config import Config

_STEPS = {  # step -> field of its probability; a step's stream follows from its place: new steps go to the end
    "flip_rows": "flip_probability",
    "flip_columns": "flip_probability",
    "turn": "turn_probability",
    "affine": "affine_probability",
    "elastic": "elastic_probability",
    "gamma": "gamma_probability",
    "contrast": "contrast_probability",
    "noise": "noise_probability",
    "blur": "blur_probability",
    "clahe": "clahe_probability",
    "inversion": "inversion_probability",
}
_TURNS = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
_BORDER = cv2.BORDER_REFLECT_101  # for image and masks alike, so that what is mirrored in has its label
# Of 255, where a resampled mask is cut. Lines of 1 px, turned and scaled, come out in 2.6 pieces on average; cut at one
# half it is 15, with nearest neighbour 10. From 1.5 px on Dice is that of the best cut, and the area 3 to 6 % larger.
_MASK_CUT = 107
_CELLS_PER_SIGMA = 2  # how finely the elastic field is drawn before it is blown up
_MAX_STEEPNESS = 0.35  # of amplitude by sigma: displacements have a slope of 1 at four standard deviations there
_CLAHE_TILES = (8, 8)

Probability = Annotated[float, Field(ge=0, le=1)]
Layers = list[np.ndarray]  # the image, (H, W, 3) uint8, then its masks, (H, W) uint8 of 0 and 255


class AugmentConfig(Config):
    """Probabilities in [0, 1], 0 turns a step off. A magnitude is the largest: each sample draws one up to it."""

    flip_probability: Probability = 0.5
    """Probability of a flip, for each of the two axes on its own."""
    turn_probability: Probability = 0.75
    """Probability of a turn by 90, 180 or 270 degrees."""
    affine_probability: Probability = 0.3
    """Probability of rotation, scale, shear and translation together, about the centre of the image."""
    rotation_deg: float = Field(15.0, ge=0, le=180)
    """To either side."""
    scale_fraction: float = Field(0.1, ge=0, le=1)
    """0.1 scales by a factor from 1/1.1 to 1.1."""
    shear_deg: float = Field(5.0, ge=0, le=45)
    """To either side."""
    translation_fraction: float = Field(0.05, ge=0, le=0.5)
    """To either side, as a fraction of the image's width and of its height."""
    elastic_probability: Probability = 0.2
    """Probability of a smooth random displacement of every pixel."""
    elastic_sigma_fraction: float = Field(0.05, ge=0.01, le=1)
    """How far displacements are alike: the sigma of the Gaussian that smooths them, as a fraction of the shorter
    side of the image."""
    elastic_amplitude_fraction: float = Field(0.008, ge=0, le=1)
    """Root mean square of the displacement along each axis, as a fraction of the shorter side of the image."""
    gamma_probability: Probability = 0.3
    """Probability of a power law of brightness."""
    gamma_max: float = Field(1.4, ge=1, le=10)
    """1.4 raises brightness, in [0, 1], to a power from 1/1.4 to 1.4."""
    contrast_probability: Probability = 0.3
    """Probability of contrast and brightness together."""
    contrast_fraction: float = Field(0.25, ge=0, lt=1)
    """0.25 multiplies the distance to the image's mean by a factor from 0.75 to 1.25."""
    brightness_fraction: float = Field(0.05, ge=0, le=1)
    """Added or taken away, as a fraction of the range of 255 levels."""
    noise_probability: Probability = 0.15
    """Probability of Gaussian noise, the same in the three channels: detectors of this field see grey."""
    noise_std_fraction: float = Field(0.04, ge=0, le=1)
    """Standard deviation of the noise, as a fraction of the range of 255 levels."""
    blur_probability: Probability = 0.1
    """Probability of Gaussian blur."""
    blur_sigma_px: float = Field(1.0, gt=0, le=64)
    """Standard deviation of the Gaussian, in pixels of the image as stored."""
    clahe_probability: Probability = 0.1
    """Probability of contrast-limited adaptive histogram equalisation of the brightness, in 8 x 8 tiles."""
    clahe_clip_limit: float = Field(2.0, ge=1, le=1000)
    """A histogram's bins are cut at this multiple of their mean."""
    inversion_probability: Probability = 0.0
    """Probability of bright and dark exchanged. Off, because polarity is a property of the modality: vessels are bright
    in OCT-A, dark in X-ray angiography, and a data set of one of them shows no other. For a model that is to work on
    both, 0.5."""

    @classmethod
    def off(cls) -> Self:
        """With all steps turned off."""
        return cls(**dict.fromkeys(_STEPS.values(), 0.0))

    @model_validator(mode="after")
    def _does_not_fold(self) -> Self:
        if self.elastic_amplitude_fraction > _MAX_STEEPNESS * self.elastic_sigma_fraction:
            raise ValueError(
                f"elastic_amplitude_fraction {self.elastic_amplitude_fraction} is above {_MAX_STEEPNESS} x "
                f"elastic_sigma_fraction {self.elastic_sigma_fraction}: the image would fold over itself and tear "
                "vessels. Lower the amplitude or raise the sigma."
            )
        return self


def augment(
    image: np.ndarray, masks: np.ndarray, config: AugmentConfig, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB and (N, H, W) bool -> the same, moved together. A turn by 90 degrees swaps H and W.

    Where no step is chosen, the image that comes back is the one that was given, not a copy. The result follows from
    the seed of `random` and from how many children it has spawned; no number is drawn from `random` itself, so what the
    caller draws later does not depend on `config`.
    """
    streams = zip(_STEPS.items(), random.spawn(len(_STEPS)), strict=True)
    chosen = {step: stream for (step, field), stream in streams if stream.random() < getattr(config, field)}
    layers = [image, *(mask.astype(np.uint8) * 255 for mask in masks)]
    pixels, *moved = _warp(_turn(layers, chosen), config, chosen)
    height, width = pixels.shape[:2]
    return _recolour(pixels, config, chosen), np.array(moved).reshape(len(moved), height, width) >= _MASK_CUT


def possible_sizes(height: int, width: int, config: AugmentConfig) -> set[tuple[int, int]]:
    """The sizes (H, W), in pixels, that `augment` may give an image of H x W: its own and, with turns, W x H."""
    return {(height, width), (width, height)} if config.turn_probability else {(height, width)}


def _turn(layers: Layers, chosen: dict[str, np.random.Generator]) -> Layers:
    """Flips and turns; exact."""
    for axis, step in enumerate(("flip_rows", "flip_columns")):
        if step in chosen:
            layers = [cv2.flip(layer, axis) for layer in layers]
    if "turn" in chosen:
        turn = _TURNS[chosen["turn"].integers(len(_TURNS))]
        layers = [cv2.rotate(layer, turn) for layer in layers]
    return layers


def _warp(layers: Layers, config: AugmentConfig, chosen: dict[str, np.random.Generator]) -> Layers:
    """Affine and elastic."""
    if not chosen.keys() & {"affine", "elastic"}:
        return layers
    height, width = layers[0].shape[:2]
    matrix = _affine_matrix(height, width, config, chosen["affine"]) if "affine" in chosen else np.eye(2, 3)
    map_x, map_y = _affine_maps(matrix, height, width)
    if "elastic" in chosen:
        shift_x, shift_y = _displacements(height, width, config, chosen["elastic"])
        map_x += shift_x
        map_y += shift_y
    fixed_point = cv2.convertMaps(map_x, map_y, cv2.CV_16SC2)  # faster, as they are used for all layers
    modes = [cv2.INTER_CUBIC] + [cv2.INTER_LINEAR] * (len(layers) - 1)
    return [cv2.remap(layer, *fixed_point, mode, borderMode=_BORDER) for layer, mode in zip(layers, modes, strict=True)]


def _affine_matrix(height: int, width: int, config: AugmentConfig, random: np.random.Generator) -> np.ndarray:
    """(2, 3): pixel x, y, 1 of the result -> the place in the image that it comes from."""
    angle, shear, log_scale = random.uniform(-1, 1, 3) * (
        math.radians(config.rotation_deg),
        math.radians(config.shear_deg),
        math.log1p(config.scale_fraction),
    )
    move = random.uniform(-1, 1, 2) * config.translation_fraction * (width, height)
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ [[1, math.tan(shear)], [0, 1]] * math.exp(-log_scale)
    centre = np.array([width - 1, height - 1]) / 2
    return np.column_stack([linear, centre - linear @ (centre + move)])


def _affine_maps(matrix: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the matrix's source of every pixel, (H, W) float32 each."""
    xs, ys = np.arange(width), np.arange(height)
    map_x, map_y = (
        np.add.outer((by_y * ys + offset).astype(np.float32), (by_x * xs).astype(np.float32))
        for by_x, by_y, offset in matrix
    )
    return map_x, map_y


def _displacements(height: int, width: int, config: AugmentConfig, random: np.random.Generator) -> list[np.ndarray]:
    """Along x and along y, (H, W) float32 each, in pixels."""
    side = min(height, width)
    amplitude = random.uniform(0, config.elastic_amplitude_fraction) * side
    cells = [math.ceil(_CELLS_PER_SIGMA * size / (config.elastic_sigma_fraction * side)) for size in (height, width)]
    fields = []
    for noise in random.standard_normal((2, *cells), np.float32):
        smooth = cv2.GaussianBlur(noise, (0, 0), _CELLS_PER_SIGMA)
        smooth *= amplitude / math.sqrt(np.mean(smooth**2))
        fields.append(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC))
    return fields


def _recolour(pixels: np.ndarray, config: AugmentConfig, chosen: dict[str, np.random.Generator]) -> np.ndarray:
    """CLAHE, contrast, gamma, inversion, blur and noise of (H, W, 3) uint8."""
    if "clahe" in chosen:
        pixels = _equalise(pixels, chosen["clahe"].uniform(1, config.clahe_clip_limit))
    if chosen.keys() & {"contrast", "gamma", "inversion"}:
        pixels = cv2.LUT(pixels, _table(float(pixels.mean()) / 255, config, chosen))
    if "blur" in chosen:
        sigma = chosen["blur"].uniform(0, config.blur_sigma_px)
        pixels = cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=_BORDER)
    if "noise" in chosen:
        pixels = _add_noise(pixels, 255 * config.noise_std_fraction, chosen["noise"])
    return pixels


def _equalise(pixels: np.ndarray, clip_limit: float) -> np.ndarray:
    """CLAHE of the brightness. In YCrCb, unlike in Lab, a grey image stays grey to the last bit."""
    clahe = cv2.createCLAHE(clip_limit, _CLAHE_TILES)
    brightness, *colours = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb))
    return cv2.cvtColor(cv2.merge([clahe.apply(brightness), *colours]), cv2.COLOR_YCrCb2RGB)


def _table(mean: float, config: AugmentConfig, chosen: dict[str, np.random.Generator]) -> np.ndarray:
    """(256,) uint8, what each level becomes. `mean` is the image's, in [0, 1]."""
    levels = np.linspace(0, 1, 256)
    if "contrast" in chosen:
        change, brighter = chosen["contrast"].uniform(-1, 1, 2) * (config.contrast_fraction, config.brightness_fraction)
        levels = np.clip(mean + (1 + change) * (levels - mean) + brighter, 0, 1)
    if "gamma" in chosen:
        levels = levels**config.gamma_max ** chosen["gamma"].uniform(-1, 1)
    if "inversion" in chosen:
        levels = 1 - levels
    return np.rint(255 * levels).astype(np.uint8)


def _add_noise(pixels: np.ndarray, max_std: float, random: np.random.Generator) -> np.ndarray:
    std = random.uniform(0, max_std)
    noise = random.standard_normal(pixels.shape[:2], np.float32) * np.float32(std)
    return cv2.add(pixels, cv2.merge([noise] * 3), dtype=cv2.CV_8U)
