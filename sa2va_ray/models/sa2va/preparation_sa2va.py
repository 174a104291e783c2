"""From requests to what the model is given: pixels on its device, and token ids.

Nothing here waits for the model, so one batch is prepared while another is answered.

Shapes: B requests, T tiles, K tokens of a tile, R regions, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .batch_pixels_sa2va import BatchPixels, RgbPicture
from .processing_sa2va import Sa2VAProcessor


@dataclass(frozen=True)
class Request:
    """What is asked of the model.

    Attributes:
        image: RGB or (H, W, 3) uint8, any size; None for a talk without an image.
        prompt: may hold one `<image>` marker; without one the image goes first, on a line of its own.
        answer: a reply to be taken as said, without its end token; None lets the model speak.
        history: earlier (question, answer) turns about the same image.
        past_text: the same as upstream gives it, in the template's own words; not together with `history`.
        regions: (R, H, W) bool, regions of the image that the prompt is about (visual prompts); of a first
            question only, so not together with `history` or `past_text`.
        max_masks: that the answer may have, since each takes memory for the whole image; None for any number.
    """

    image: RgbPicture | None
    prompt: str
    answer: str | None = None
    history: Sequence[tuple[str, str]] = ()
    past_text: str = ""
    regions: np.ndarray | None = None
    max_masks: int | None = None


@dataclass(frozen=True)
class PreparedRequests:
    """B requests, ready for the model.

    Attributes:
        images: those of the requests without repetition; `places` (B) says which of them each request is about.
        pixels: of `images`; `tiles` are theirs, (T, 3, S, S) float32 of each.
        regions: (R, K) bool of each request.
        prompt_ids: token ids of each request.
    """

    requests: Sequence[Request]
    images: Sequence[RgbPicture | None]
    places: Sequence[int]
    pixels: BatchPixels
    tiles: Sequence[Tensor]
    regions: Sequence[Tensor]
    prompt_ids: Sequence[list[int]]


def prepare(processor: Sa2VAProcessor, requests: Sequence[Request], device: torch.device) -> PreparedRequests:
    """An image that several requests hold, the same object, is prepared once.

    Raises:
        ValueError: a request that contradicts itself.
    """
    images, places = _distinct([request.image for request in requests])
    pixels = BatchPixels(processor, images, device)
    tiles = pixels.tiles()
    regions = [
        torch.zeros(0, processor.config.tokens_per_tile, dtype=torch.bool)
        if request.regions is None
        else processor.region_masks(_checked_regions(request.regions))
        for request in requests
    ]
    num_tiles = [len(tiles[place]) for place in places]
    prompt_ids = [_prompt_ids(processor, *each) for each in zip(requests, num_tiles, regions, strict=True)]
    for ids, count, of_regions in zip(prompt_ids, num_tiles, regions, strict=True):
        _check_image_places(
            ids.count(processor.image_token_id), count * processor.config.tokens_per_tile + int(of_regions.sum())
        )
    return PreparedRequests(requests, images, places, pixels, tiles, regions, prompt_ids)


def _checked_regions(regions: np.ndarray) -> np.ndarray:
    if np.ndim(regions) != 3 or not np.size(regions):
        raise ValueError(f"Regions have the shape {np.shape(regions)}; give (R, H, W) with R of 1 or more.")
    return regions


def _check_image_places(num_places: int, num_tokens: int) -> None:
    """Of each request, since those of a batch are filled in one row: what one has too many the next would have."""
    if num_places != num_tokens:
        raise ValueError(
            f"The conversation has room for {num_places} image tokens, the image gives {num_tokens}. What was said "
            "before has to show its image once (<image>), and nothing else that stands for one."
        )


def _distinct(images: Sequence[RgbPicture | None]) -> tuple[list[RgbPicture | None], list[int]]:
    """The images without repetition, and where in these each one is."""
    found = {id(image): image for image in images}
    order = {key: place for place, key in enumerate(found)}
    return list(found.values()), [order[id(image)] for image in images]


def _prompt_ids(processor: Sa2VAProcessor, request: Request, num_tiles: int, regions: Tensor) -> list[int]:
    if request.past_text and request.history:
        raise ValueError("What was said before is given twice, as history and as past_text. Give one of them.")
    if len(regions) and (request.past_text or request.history or request.image is None):
        raise ValueError(
            f"The question has {len(regions)} regions, which stand beside the image in the first question of a talk. "
            "Ask about them first, or leave out the regions or what was said before."
        )
    if request.past_text:
        return processor.past_text_ids(request.past_text, num_tiles) + processor.follow_up_ids(request.prompt)
    if request.history:
        return processor.training_ids(request.history, num_tiles)[0] + processor.follow_up_ids(request.prompt)
    if request.image is None:
        return processor.follow_up_ids(request.prompt)
    return processor.prompt_ids(request.prompt, num_tiles, regions.sum(dim=1).tolist())
