"""Sa2VAPredictor: queries in, masks out. It knows nothing of Ray, HTTP or data sets.

Shapes: N masks of one answer, H W pixels of the query's image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.sa2va.decoding_sa2va import AnyRank
from sa2va_ray.models.sa2va.generation_sa2va import Segmentation, segment_prepared
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.passes_sa2va import Passes
from sa2va_ray.models.sa2va.pixels_sa2va import rgb_image, rgb_pixels
from sa2va_ray.models.sa2va.preparation_sa2va import PreparedRequests, Request, prepare
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.predict.cleanup import CleanupConfig, clean_masks
from sa2va_ray.predict.compiled_passes import CompiledPasses
from sa2va_ray.predict.facts import ModelFacts

T = TypeVar("T")

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

    Raises:
        TypeError: the prompt is no text.
        ValueError: the threshold is out of range.
    """

    image: Image.Image | np.ndarray
    prompt: str
    answer: str | None = None
    threshold: float | None = None
    cleanup: CleanupConfig | None = None
    max_masks: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"A prompt is a text, not {type(self.prompt).__name__}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"The threshold is {self.threshold}; it is of probabilities, so from 0 to 1.")


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
    return _made_once(queries, rgb_image)


def _made_once(queries: Sequence[Query], make: Callable[[Image.Image | np.ndarray], T]) -> list[T]:
    distinct = {id(query.image): query.image for query in queries}
    made = {key: make(image) for key, image in distinct.items()}
    return [made[id(query.image)] for query in queries]


@dataclass(frozen=True)
class PreparedQueries:
    """Queries whose pixels are on the model's device."""

    queries: Sequence[Query]
    requests: PreparedRequests


@dataclass(frozen=True)
class _MasksOfOneSize:
    """Of answers that follow each other, on the model's device: (M, H, W) of each kind, `counts` of them an answer."""

    above: Tensor
    probabilities: Tensor
    counts: list[int]

    def of_each_answer(self) -> Iterator[tuple[Tensor, Tensor]]:
        """`above` and `probabilities` of one answer after the other, on the CPU."""
        return zip(self.above.cpu().split(self.counts), self.probabilities.cpu().split(self.counts), strict=True)


@dataclass(frozen=True)
class RunningQueries:
    """Answers that the GPU may still be working on. Holds all that it reads until then."""

    prepared: PreparedQueries
    segmentations: Sequence[Segmentation]
    masks: Sequence[_MasksOfOneSize]
    is_done: torch.cuda.Event | None


class Sa2VAPredictor:
    """A loaded model. `predict` may be called from one thread at a time; so may each of its three stages, `prepare`,
    `run` and `finish`, which may each have a thread of its own: a GPU then goes from one batch to the next without a
    pause.

    Attributes:
        name, sha256, threshold, cleanup: those of `ModelFacts`.
    """

    def __init__(self, model: Sa2VAModel, processor: Sa2VAProcessor, manifest: dict[str, Any] | None = None):
        """
        Args:
            model: in evaluation mode.
            manifest: that of an exported folder.
        """
        self._model, self._processor = model, processor
        self._passes = Passes(model)
        self._num_template_tokens = len(processor.follow_up_ids(""))
        self._upload, self._download = _side_stream(model.device), _side_stream(model.device)
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
    ) -> "Sa2VAPredictor":
        """Loads a whole Sa2VA: an exported folder, also of 8-bit weights, which is checked hash by hash, or upstream's.

        Args:
            device: "cuda" where there is one, else "cpu", by default.
            dtype: bfloat16 on CUDA, float32 on the CPU, by default.
            grounding_config: sizes of SAM 2, for upstream's folders of other sizes than hiera-large.

        Raises:
            UserError: no Sa2VA, or a damaged one.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
        loaded = load_model(uri, device=device, dtype=dtype, grounding_config=grounding_config, may_be_quantised=True)
        return cls(loaded.model, loaded.processor, loaded.manifest)

    def compile(self) -> None:
        """On a GPU, makes answers quicker from now on; the model's weights must not move afterwards. It takes a minute
        or two, and some 15 s where `TORCHINDUCTOR_CACHE_DIR` holds what was compiled before."""
        if self._model.device.type == "cuda":
            self._passes = CompiledPasses(self._model)

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
        return self.finish(self.run(self.prepare(queries), max_new_tokens, any_rank)) if queries else []

    def prepare(self, queries: Sequence[Query]) -> PreparedQueries:
        """Brings one or more queries to the device, while it may be at work on others.

        Raises:
            ImageError: an image cannot be used.
        """
        images = _made_once(queries, rgb_pixels)
        requests = [
            Request(image, query.prompt, query.answer, max_masks=query.max_masks)
            for image, query in zip(images, queries, strict=True)
        ]
        with torch.no_grad(), torch.cuda.stream(self._upload):
            prepared = prepare(self._processor, requests, self._model.device)
        if self._upload:
            self._upload.synchronize()
        return PreparedQueries(queries, prepared)

    def run(self, prepared: PreparedQueries, max_new_tokens: int = 128, any_rank: AnyRank = bool) -> RunningQueries:
        """Starts all that a GPU has to do for the answers; the arguments are those of `predict`.

        Raises:
            TooManyMasksError: an answer has more masks than its query allows.
        """
        with self._passes.answering(), torch.no_grad():
            segmentations = segment_prepared(
                self._model,
                self._processor,
                prepared.requests,
                max_new_tokens=max_new_tokens,
                any_rank=any_rank,
                passes=self._passes,
            )
            masks = self._masks(prepared.queries, segmentations)
            is_done = torch.cuda.current_stream().record_event() if self._download else None
        return RunningQueries(prepared, segmentations, masks, is_done)

    def finish(self, running: RunningQueries) -> list[Prediction]:
        """Waits for the answers and takes them from the device."""
        with torch.cuda.stream(self._download):
            if self._download and running.is_done:
                self._download.wait_event(running.is_done)
            scores = _mean_of_each([each.ious for each in running.segmentations])
            masks = [pair for each in running.masks for pair in each.of_each_answer()]
        return [
            self._prediction(query, result.text, score, above.numpy(), probabilities.numpy())
            for query, result, score, (above, probabilities) in zip(
                running.prepared.queries, running.segmentations, scores, masks, strict=True
            )
        ]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._model.device

    def num_tokens(self, prompt: str) -> int:
        """How many tokens the prompt's own text has."""
        return len(self._processor.follow_up_ids(prompt)) - self._num_template_tokens

    def _masks(self, queries: Sequence[Query], segmentations: Sequence[Segmentation]) -> list[_MasksOfOneSize]:
        masks = []
        pairs = zip(queries, segmentations, strict=True)
        for _, group in groupby(pairs, key=lambda pair: pair[1].mask_logits.shape[1:]):
            of_group = list(group)
            logits = [result.mask_logits for _, result in of_group]
            counts = [len(each) for each in logits]
            together = logits[0] if len(logits) == 1 else torch.cat(logits)
            probabilities = together.sigmoid_()  # in place: 4 bytes for each pixel and mask
            thresholds = torch.tensor([self._threshold(query) for query, _ in of_group])
            # Without `non_blocking` this would wait for all that the GPU still has to do.
            of_each_mask = thresholds.repeat_interleave(torch.tensor(counts)).to(together, non_blocking=True)
            above = probabilities > of_each_mask.view(-1, 1, 1)
            masks.append(_MasksOfOneSize(above, probabilities, counts))
        return masks

    def _prediction(
        self, query: Query, text: str, score: float, masks: np.ndarray, probabilities: np.ndarray
    ) -> Prediction:
        cleanup = self.cleanup if query.cleanup is None else query.cleanup
        return Prediction(
            text=text.removesuffix(self._processor.template.end),
            masks=clean_masks(masks, cleanup),
            probabilities=probabilities,
            score=score,
            threshold=self._threshold(query),
            cleanup=cleanup,
        )

    def _threshold(self, query: Query) -> float:
        return self.threshold if query.threshold is None else query.threshold


def _mean_of_each(values: Sequence[Tensor]) -> list[float]:
    """The mean of each tensor (N,), 0.0 where N is 0."""
    on_cpu = torch.cat(list(values)).cpu().split([len(each) for each in values])
    return [float(each.mean()) if len(each) else 0.0 for each in on_cpu]


def _side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A queue of work beside that of the model; None where the device has no such thing."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None
