"""What the HTTP side and a model deployment send each other. It crosses processes, and often machines: masks go as
bits, probabilities only where they are asked for, and then in the 16 bits that replies have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.serve.problems import Problem

if TYPE_CHECKING:  # with torch and transformers: 7 s of a core and 400 MB, for which an ingress has no use
    from sa2va_ray.predict.predictor import Prediction

_UINT16_MAX = 65535
_MEGAPIXEL = 10**6


@dataclass(frozen=True)
class Calibration:
    """What holds where a request names no threshold or no clean-up. It belongs to the weights of `sha256` alone."""

    sha256: str
    threshold: float
    cleanup: CleanupConfig


@dataclass(frozen=True)
class Question:
    """An image, (H, W) or (H, W, 3) uint8, and what is asked about it; see `Query` for threshold and clean-up.

    Attributes:
        calibration: the model's, as the HTTP side knew it when the request came.
    """

    image: np.ndarray
    prompts: tuple[str, ...]
    threshold: float | None = None
    cleanup: CleanupConfig | None = None
    wants_probabilities: bool = False
    calibration: Calibration | None = None

    def settled(self, calibration: Calibration) -> "Question":
        """The question with this calibration in the place of what it leaves open."""
        return replace(
            self,
            threshold=calibration.threshold if self.threshold is None else self.threshold,
            cleanup=calibration.cleanup if self.cleanup is None else self.cleanup,
            calibration=calibration,
        )

    @property
    def megapixels(self) -> int:
        """The size of the question for a batch: pixels times prompts, in millions, rounded up; 1 at least."""
        height, width = self.image.shape[:2]
        return max(1, math.ceil(height * width * len(self.prompts) / _MEGAPIXEL))

    def parts(self, max_megapixels: int) -> "list[Question]":
        """The question cut into as few questions of fewer prompts as needed for none to be larger than
        `max_megapixels`, unless a single prompt is."""
        height, width = self.image.shape[:2]
        at_a_time = max(1, max_megapixels * _MEGAPIXEL // (height * width))
        return [
            replace(self, prompts=self.prompts[first : first + at_a_time])
            for first in range(0, len(self.prompts), at_a_time)
        ]

    @property
    def message_bytes(self) -> int:
        """Size of the question or of its reply, whichever is larger, with a mask for each prompt."""
        height, width = self.image.shape[:2]
        bits = len(self.prompts) * (17 if self.wants_probabilities else 1)
        return max(self.image.nbytes, height * width * bits // 8)


def megapixels(questions: Sequence[Question]) -> int:
    """Size of a batch of questions."""
    return sum(question.megapixels for question in questions)


@dataclass(frozen=True)
class PromptResult:
    """What the model found for one prompt.

    Attributes:
        text, score, threshold, cleanup: those of `Prediction`.
        area_fraction: share of the pixels in any mask, in [0, 1].
        mean_confidence: mean probability of the pixels in the masks, in [0, 1]; 0 where there are none.
        shape: (N, H, W) of the masks.
        mask_bits: (ceil(N H W / 8),) uint8, see `masks`.
        probabilities: (N, H, W) uint16, of 65535; None unless the question wanted them.
    """

    text: str
    score: float
    threshold: float
    cleanup: CleanupConfig
    area_fraction: float
    mean_confidence: float
    shape: tuple[int, int, int]
    mask_bits: np.ndarray
    probabilities: np.ndarray | None

    @classmethod
    def from_prediction(cls, prediction: "Prediction", with_probabilities: bool) -> "PromptResult":
        """Packs what a replica sends of a prediction."""
        masks, probabilities = prediction.masks, prediction.probabilities
        return cls(
            text=prediction.text,
            score=prediction.score,
            threshold=prediction.threshold,
            cleanup=prediction.cleanup,
            area_fraction=float(prediction.union().mean()),
            mean_confidence=float(probabilities[masks].mean()) if masks.any() else 0.0,
            shape=masks.shape,
            mask_bits=np.packbits(masks),
            probabilities=to_uint16(probabilities) if with_probabilities else None,
        )

    def masks(self) -> np.ndarray:
        """The masks, (N, H, W) bool."""
        return np.unpackbits(self.mask_bits, count=math.prod(self.shape)).view(bool).reshape(self.shape)


@dataclass(frozen=True)
class ModelReply:
    """What a replica answers to a question.

    Attributes:
        results: one for each prompt.
        calibration: of the model that answered, which may be another one during a rolling update.
        predict_ms: how long the model took for the batch.
        problem: why the model cannot answer this question; then there are no results.
    """

    results: tuple[PromptResult, ...]
    calibration: Calibration
    predict_ms: float
    problem: Problem | None = None


def to_uint16(probabilities: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint16, round(p x 65535)."""
    scaled = probabilities * np.float32(_UINT16_MAX)
    return np.rint(scaled, out=scaled).astype(np.uint16)
