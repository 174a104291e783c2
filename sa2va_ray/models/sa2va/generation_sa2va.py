"""From images and prompts to answers with masks, in one batch.

Shapes: B queries, T tiles, D width of the language model, N masks of one query, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .batch_pixels_sa2va import BatchPixels, picture_size
from .decoding_sa2va import AnyRank, Sampling, decode_answers
from .grounding_sam2 import upsample_mask_logits
from .passes_sa2va import Passes
from .preparation_sa2va import PreparedRequests, Request, prepare
from .processing_sa2va import SEG_TOKEN, Sa2VAProcessor

DEFAULT_DRAFT = "Sure, [SEG]."


class TooManyMasksError(ValueError):
    """An answer has more masks than were asked for."""


@dataclass
class Segmentation:
    """One request's result: `text` with special tokens, `mask_logits` (N, H, W) float32 at the image's own size, and
    `ious` (N,), SAM 2's own estimates, both on the model's device."""

    text: str
    mask_logits: Tensor
    ious: Tensor


@torch.no_grad()  # not inference mode: between training steps, it would leave what autograd refuses
def segment(
    model,
    processor: Sa2VAProcessor,
    requests: Sequence[Request],
    draft: str = DEFAULT_DRAFT,
    sampling: Sampling | None = None,
    max_new_tokens: int = 2048,
) -> list[Segmentation]:
    """Answers B requests about images of any size in one batch. An image that several requests hold, the same object,
    is encoded once. For the arguments see `segment_prepared`.

    Raises:
        TooManyMasksError: an answer has more masks than its request allows.
        ValueError: a request that contradicts itself.
    """
    prepared = prepare(processor, requests, model.device)
    return segment_prepared(model, processor, prepared, draft=draft, sampling=sampling, max_new_tokens=max_new_tokens)


@torch.no_grad()
def segment_prepared(
    model,
    processor: Sa2VAProcessor,
    prepared: PreparedRequests,
    draft: str = DEFAULT_DRAFT,
    sampling: Sampling | None = None,
    max_new_tokens: int = 2048,
    any_rank: AnyRank = bool,
    passes: Passes | None = None,
) -> list[Segmentation]:
    """Answers prepared requests. On a GPU the masks may not be computed yet when it returns.

    Where processes share the weights (ZeRO-3), each part of the model runs in all of them or in none. With `any_rank`
    they make the same calls, whatever each has to say: one that is done goes on in step, for nothing. All must bring
    the same B, and an image with each request.

    Args:
        model: `Sa2VAModel` in evaluation mode.
        draft: the answer that is expected; it changes the time that the answer takes, and nothing else.
        sampling: None decodes greedily.
        passes: that run the model's parts; those of `Passes` by default.

    Raises:
        TooManyMasksError: an answer has more masks than its request allows.
    """
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}; give a whole number of 1 or more.")
    passes = passes or Passes(model)
    requests, prompt_ids = prepared.requests, prepared.prompt_ids
    image_tokens = _image_tokens(passes, prepared.tiles, prepared.places, prepared.regions)
    guess = "" if sampling else draft
    replies = [guess if request.answer is None else request.answer for request in requests]
    masks = _Masks(passes, processor, prepared, any_rank)
    if passes.encodes_ahead and any(SEG_TOKEN in reply for reply in replies):
        masks.encode([n for n, reply in enumerate(replies) if SEG_TOKEN in reply])
    # One row for all prompts: each image's tokens fall into its own prompt's places, in order.
    all_ids = torch.tensor([[id_ for ids in prompt_ids for id_ in ids]])
    prompt_embeds = model.embed(all_ids, image_tokens)[0].split([len(ids) for ids in prompt_ids])
    answers = decode_answers(
        model.language_model,
        prompt_embeds,
        drafts=[processor.answer_ids(reply) if reply else [] for reply in replies],
        forced=[request.answer is not None for request in requests],
        seg_token_id=processor.seg_token_id,
        end_token_id=processor.end_token_id,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        any_rank=any_rank,
        prefill=passes.prefill,
    )
    for request, answer in zip(requests, answers, strict=True):
        _check_num_masks(len(answer.seg_states), request.max_masks)
    decoded = masks.decode([answer.seg_states for answer in answers])
    return [Segmentation(processor.decode(answer.ids), *mask) for answer, mask in zip(answers, decoded, strict=True)]


def _check_num_masks(num_masks: int, most: int | None) -> None:
    if most is not None and num_masks > most:
        raise TooManyMasksError(
            f"The model's answer has {num_masks} masks, where {most} are allowed for an image of this size. A model "
            "says so many where it was not trained on such a question."
        )


def _image_tokens(passes: Passes, tiles: Sequence[Tensor], places: Sequence[int], regions: Sequence[Tensor]) -> Tensor:
    """(M, D): for each request the tokens of its image's tiles, then those of each region, taken from the last tile."""
    model = passes.model
    if not any(len(each) for each in tiles):
        return torch.zeros(0, model.config.hidden_size, device=model.device)
    stacked = torch.cat([each for each in tiles if len(each)]).to(model.device)
    encoded = passes.encode_tiles(stacked).split([len(each) for each in tiles])
    tokens = []
    for place, of_regions in zip(places, regions, strict=True):
        of_image = encoded[place]
        tokens += [
            of_image.flatten(0, 1),
            *[of_image[-1, region.to(of_image.device)] for region in of_regions],
        ]
    return torch.cat(tokens)


class _Masks:
    """The masks of prepared requests. SAM 2 sees only the images that have a [SEG], each of them once."""

    def __init__(
        self,
        passes: Passes,
        processor: Sa2VAProcessor,
        prepared: PreparedRequests,
        any_rank: AnyRank,
    ):
        self._passes, self._processor, self._any_rank = passes, processor, any_rank
        self._images, self._places, self._pixels = prepared.images, prepared.places, prepared.pixels
        self._encoded_places: list[int] = []
        self._encoded: Any = None

    def encode(self, numbers: Sequence[int]) -> None:
        """Lets SAM 2 see the images of these requests."""
        self._encoded_places = sorted({self._places[n] for n in numbers if self._images[self._places[n]] is not None})
        if self._encoded_places:
            self._encoded = self._passes.encode_images(self._pixels.grounding(self._encoded_places))

    def decode(self, seg_states: Sequence[list[Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Mask logits (N, H, W) and IoU (N,) of each request."""
        model, sizes = self._passes.model, [self._size(place) for place in self._places]
        masks = [(torch.zeros(0, *size, device=model.device), torch.zeros(0, device=model.device)) for size in sizes]
        shown = [n for n, place in enumerate(self._places) if self._images[place] is not None and seg_states[n]]
        if not self._any_rank(bool(shown)):
            return masks
        if not shown:  # in step with the others
            nothing = torch.zeros(1, model.config.hidden_size, dtype=model.dtype, device=model.device)
            blank = BatchPixels(self._processor, [Image.new("RGB", (1, 1))], model.device)
            encoded = self._passes.encode_images(blank.grounding([0]))
            self._passes.decode_masks(encoded, nothing, torch.zeros(1, dtype=torch.int64, device=model.device))
            return masks
        if not {self._places[n] for n in shown} <= set(self._encoded_places):
            self.encode(shown)
        counts = [len(seg_states[n]) for n in shown]
        of_image = torch.tensor([self._encoded_places.index(self._places[n]) for n in shown])
        index = torch.repeat_interleave(of_image, torch.tensor(counts)).to(model.device)
        states = torch.stack([state for n in shown for state in seg_states[n]])
        logits, ious = self._passes.decode_masks(self._encoded, states, index)
        full_size = _upsampled(logits, self._processor.config.grounding_size, [sizes[n] for n in shown], counts)
        for n, full, of_request in zip(shown, full_size, ious.split(counts), strict=True):
            masks[n] = (full, of_request)
        return masks

    def _size(self, place: int) -> tuple[int, int]:
        image = self._images[place]
        return (0, 0) if image is None else picture_size(image)


def _upsampled(
    logits: Tensor, grounding_size: int, sizes: Sequence[tuple[int, int]], counts: Sequence[int]
) -> list[Tensor]:
    """(N, h, h) of all requests -> (N, H, W) of each, those of one size together where they follow each other."""
    full: list[Tensor] = []
    rest = logits
    for size, group in groupby(zip(sizes, counts, strict=True), key=lambda each: each[0]):
        of_group = [count for _, count in group]
        same_size, rest = rest.split([sum(of_group), len(rest) - sum(of_group)])
        full += upsample_mask_logits(same_size, grounding_size, *size).split(of_group)
    return full
