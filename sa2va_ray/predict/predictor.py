"""Sa2VAPredictor: queries in, masks out. It knows nothing of Ray, HTTP or data sets.

Shapes: N masks of one answer, H W pixels of the query's image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.sa2va.decoding_sa2va import AnyRank
from sa2va_ray.models.sa2va.generation_sa2va import Request, Segmentation, segment
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.passes_sa2va import Passes
from sa2va_ray.models.sa2va.pixels_sa2va import rgb_image
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.predict.cleanup import CleanupConfig, clean_masks, to_masks
from sa2va_ray.predict.compiled_passes import CompiledPasses
from sa2va_ray.predict.facts import ModelFacts

_MAX_MASK_PIXELS = 32 * 10**6  # all masks of an answer together; nine bytes of memory for each pixel
_MIN_MASKS = 4  # allowed whatever their size: one for each of a few kinds of vessels


def most_masks(height: int, width: int) -> int:
    """Most masks that an answer about an image of this size may have, where anybody may ask: a model says any number of
    [SEG] where it was not trained on such a question, and each takes memory for the whole image."""
    return max(_MIN_MASKS, _MAX_MASK_PIXELS // (height * width))


@dataclass(frozen=True)
class Query:
    """One image and what is asked of it.

    Attributes:
        image: any size; a `PIL.Image` or an array, of which `image_pixels` says what they mean.
        prompt: may hold one `<image>` marker; without one the image goes before the text.
        answer: a reply to be taken as said, without its end token; None lets the model speak.
        threshold: of the probabilities, in [0, 1]; None takes the model's calibrated one.
        cleanup: of the masks; None takes the model's own.
        max_masks: that the answer may have; None for any number.
    """

    image: Image.Image | np.ndarray
    prompt: str
    answer: str | None = None
    threshold: float | None = None
    cleanup: CleanupConfig | None = None
    max_masks: int | None = None


@dataclass(frozen=True)
class Prediction:
    """Attributes:
    text: what the model said, with special tokens, without the end token.
    masks: (N, H, W) bool, one for each [SEG] in the text: probabilities above the threshold, cleaned.
    probabilities: (N, H, W) float32 in [0, 1], as the model gave them.
    score: SAM 2's estimate of the masks' IoU, their mean; 0.0 where there is no mask.
    threshold, cleanup: that the masks were made with.
    """

    text: str
    masks: np.ndarray
    probabilities: np.ndarray
    score: float
    threshold: float
    cleanup: CleanupConfig

    def union(self) -> np.ndarray:
        """(H, W) bool: all masks of the answer together, empty where there is none."""
        return np.any(self.masks, axis=0)

    def cleaned(self, cleanup: CleanupConfig) -> "Prediction":
        """The same prediction with its masks cleaned, which they are not yet."""
        return replace(self, masks=clean_masks(self.masks, cleanup), cleanup=cleanup)


def rgb_images(queries: Sequence[Query]) -> list[Image.Image]:
    """The image of each query as RGB; one that several hold, the same object, is made once."""
    distinct = {id(query.image): query.image for query in queries}
    made = {key: rgb_image(image) for key, image in distinct.items()}
    return [made[id(query.image)] for query in queries]


class Sa2VAPredictor:
    """A loaded model. `predict` may be called from one thread at a time.

    Attributes:
        name, sha256, threshold, cleanup: those of `ModelFacts`.
    """

    def __init__(
        self,
        model: Sa2VAModel,
        processor: Sa2VAProcessor,
        manifest: dict[str, Any] | None = None,
        compile: bool = False,
    ):
        """
        Args:
            model: in evaluation mode.
            manifest: that of an exported folder.
            compile: make answers quicker, which takes a minute or two, or 15 s where the node has compiled the same
                before; its weights must not move afterwards.
        """
        self._model, self._processor = model, processor
        self._passes = CompiledPasses(model) if compile else Passes(model)
        facts = ModelFacts.from_manifest(manifest)
        self.name, self.sha256 = facts.name, facts.sha256
        self.threshold, self.cleanup = facts.threshold, facts.cleanup

    @classmethod
    def from_pretrained(
        cls,
        uri: str | Path,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        grounding_config: dict[str, Any] | None = None,
        compile: bool = False,
    ) -> "Sa2VAPredictor":
        """Loads a whole Sa2VA: an exported folder, which is checked hash by hash, or upstream's.

        Args:
            device: "cuda" where there is one, else "cpu", by default.
            dtype: bfloat16 on CUDA, float32 on the CPU, by default.
            grounding_config: sizes of SAM 2, for upstream's folders of other sizes than hiera-large.
            compile: see `__init__`.

        Raises:
            UserError: no Sa2VA, or a damaged one.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
        loaded = load_model(uri, device=device, dtype=dtype, grounding_config=grounding_config)
        return cls(loaded.model, loaded.processor, loaded.manifest, compile)

    def predict(
        self, queries: Sequence[Query], max_new_tokens: int = 128, any_rank: AnyRank = bool
    ) -> list[Prediction]:
        """Answers all queries in one batch; images may differ in size and mode, and one that several queries hold is
        encoded once.

        Args:
            max_new_tokens: an answer is cut off behind this many; the usual one has six.
            any_rank: of processes that share the weights, which then predict together (see `segment`).

        Raises:
            ImageError: an image cannot be used.
            TooManyMasksError: an answer has more masks than its query allows.
        """
        if not queries:
            return []
        images = rgb_images(queries)
        requests = [
            Request(image, query.prompt, query.answer, max_masks=query.max_masks)
            for image, query in zip(images, queries, strict=True)
        ]
        with self._passes.without_compiling():
            segmentations = segment(
                self._model,
                self._processor,
                requests,
                max_new_tokens=max_new_tokens,
                any_rank=any_rank,
                passes=self._passes,
            )
        return [self._to_prediction(query, result) for query, result in zip(queries, segmentations, strict=True)]

    def num_tokens(self, prompt: str) -> int:
        """How many tokens the prompt's own text has."""
        return len(self._processor.follow_up_ids(prompt)) - len(self._processor.follow_up_ids(""))

    def _to_prediction(self, query: Query, result: Segmentation) -> Prediction:
        threshold = self.threshold if query.threshold is None else query.threshold
        cleanup = self.cleanup if query.cleanup is None else query.cleanup
        probabilities = result.mask_logits.sigmoid_().cpu().numpy()  # in place: 4 bytes for each pixel and mask
        return Prediction(
            text=result.text.removesuffix(self._processor.template.end),
            masks=to_masks(probabilities, threshold, cleanup),
            probabilities=probabilities,
            score=float(result.ious.mean()) if len(result.ious) else 0.0,
            threshold=threshold,
            cleanup=cleanup,
        )
