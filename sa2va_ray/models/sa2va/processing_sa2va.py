"""Images and text to tensors and token ids, and back (docs/en/model_spec.md sections 2 and 3).

Uses numpy, PIL and the tokenizer only.

Shapes: T tiles, L tokens, S side of a tile, G side of SAM 2's image, H W pixels of the image itself.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .configuration_sa2va import IMAGE_MEAN, IMAGE_STD, Sa2VAConfig

IMAGE_MARKER = "<image>"
SEG_TOKEN, IMAGE_TOKEN, IMAGE_START, IMAGE_END = "[SEG]", "<IMG_CONTEXT>", "<img>", "</img>"
NEW_TOKENS = (SEG_TOKEN, "<p>", "</p>", "<vp>", "</vp>")  # what Sa2VA adds to InternVL3's tokenizer, in this order
LABEL_IGNORED = -100
_ENCODING = threading.Lock()
"""A tokenizer keeps `split_special_tokens` in a field of its own: of two threads that encode at once, one would have
the other's. Not the processor's own, since a lock does not travel to other processes."""


@dataclass(frozen=True)
class ChatTemplate:
    """One turn is `start_user + question + end + start_assistant`, answered by `answer + end`, then `separator`."""

    start_user: str
    start_assistant: str
    end: str
    separator: str = "\n"


_CHATML = ChatTemplate("<|im_start|>user\n", "\n<|im_start|>assistant\n", "<|im_end|>")
TEMPLATES = {
    "qwen_chat": _CHATML,
    "internlm2_chat": _CHATML,
    "phi3_chat": ChatTemplate("<|user|>\n", "\n<|assistant|>\n", "<|end|>"),
}


class Sa2VAProcessor:
    """What turns an image and a prompt into the model's inputs.

    Raises:
        ValueError: a tokenizer without Sa2VA's tokens.
        KeyError: an unknown template.
    """

    def __init__(self, config: Sa2VAConfig, tokenizer):
        self.config = config
        self.tokenizer = tokenizer
        self.template = TEMPLATES[config.template.replace("-", "_")]
        # Looked up once: to ask for a tokenizer's vocabulary is to have a dictionary of 151,000 tokens made.
        self.seg_token_id = token_id(tokenizer, SEG_TOKEN)
        self.image_token_id = token_id(tokenizer, IMAGE_TOKEN)
        self._image_start_id, self._image_end_id = token_id(tokenizer, IMAGE_START), token_id(tokenizer, IMAGE_END)
        self.end_token_id = token_id(tokenizer, self.template.end)

    def image_tiles(self, image: Image.Image) -> Tensor:
        """RGB image of any size -> (T, 3, S, S) float32: `tile_pixels`, ImageNet-normalised."""
        return normalize_tiles(self.tile_pixels(image))

    def tile_pixels(self, image: Image.Image) -> Tensor:
        """RGB image of any size -> (T, 3, S, S) uint8: tiles row by row, then the thumbnail."""
        size = self.config.tile_size
        columns, rows = self.tile_grid(*image.size)
        resized = image.resize((columns * size, rows * size))
        boxes = [(c * size, r * size, (c + 1) * size, (r + 1) * size) for r in range(rows) for c in range(columns)]
        tiles = [resized.crop(box) for box in boxes]
        if self.config.use_thumbnail and len(tiles) > 1:
            tiles.append(image.resize((size, size)))
        return torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])).permute(0, 3, 1, 2)

    def tile_grid(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) of an image's tiles, the thumbnail not counted."""
        bounds = (self.config.min_dynamic_patch, self.config.max_dynamic_patch)
        return tile_grid(width, height, *bounds, self.config.tile_size)

    def grounding_image(self, image: Image.Image) -> Tensor:
        """RGB image of any size -> (3, G, G) uint8; the aspect ratio is not kept."""
        size = self.config.grounding_size
        return torch.from_numpy(np.array(image.resize((size, size)))).permute(2, 0, 1)

    def prompt_ids(self, prompt: str, num_tiles: int, region_sizes: Sequence[int] = ()) -> list[int]:
        """Token ids of a question about one image, up to where the answer begins.

        The first `<image>` of the prompt marks where the image goes; without one it goes first, on a line of its own.
        Everything else in the prompt is text: a `[SEG]` that a user types is not the token.

        Args:
            region_sizes: number of image tokens of each region that the prompt is about (visual prompts).
        """
        before, marker, after = prompt.partition(IMAGE_MARKER)
        if not marker:
            before, after = "", "\n" + prompt
        image_ids = [
            self._image_start_id,
            *[self.image_token_id] * (num_tiles * self.config.tokens_per_tile),
            self._image_end_id,
        ]
        return [
            *self._encode_special(self.template.start_user, before),
            *image_ids,
            *self._region_ids(region_sizes, after),
            *self._encode_special(self.template.end + self.template.start_assistant),
        ]

    def follow_up_ids(self, prompt: str) -> list[int]:
        """Token ids of a later question about the same image, up to where its answer begins."""
        return [
            *self._encode_special(self.template.start_user, prompt),
            *self._encode_special(self.template.end + self.template.start_assistant),
        ]

    def past_text_ids(self, past_text: str, num_tiles: int) -> list[int]:
        """Token ids of a conversation so far, as upstream's `past_text` gives it: special tokens are tokens, and an
        `<image>` stands for the image where it is not written out."""
        image = IMAGE_START + IMAGE_TOKEN * (num_tiles * self.config.tokens_per_tile) + IMAGE_END
        return self.answer_ids(past_text.replace(IMAGE_MARKER, image))

    def region_masks(self, masks: np.ndarray) -> Tensor:
        """Visual prompts (R, H, W) -> (R, K) bool, which of the K tokens of a tile belong to each region."""
        side = int(self.config.tokens_per_tile**0.5)
        resized = F.interpolate(torch.from_numpy(np.asarray(masks, np.float32))[None], (side, side), mode="nearest")
        return resized[0].flatten(1).bool()

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer; `[SEG]` and the other special tokens are tokens here."""
        return self._encode(answer)

    def training_ids(self, turns: Sequence[tuple[str, str]], num_tiles: int) -> tuple[list[int], list[int]]:
        """(input ids, labels), both of length L, of a conversation about one image.

        Supervised are the answers and their end tokens; everything else has the label -100.

        Args:
            turns: (question, answer) pairs; the image stands in the first question.
            num_tiles: of the image; 0 for a conversation without one.
        """
        ids: list[int] = []
        labels: list[int] = []
        for number, (question, answer) in enumerate(turns):
            asked = self.prompt_ids(question, num_tiles) if number == 0 and num_tiles else self.follow_up_ids(question)
            replied = self.answer_ids(answer + self.template.end)
            separator = self._encode_text(self.template.separator)
            ids += asked + replied + separator
            labels += [LABEL_IGNORED] * len(asked) + replied + [LABEL_IGNORED] * len(separator)
        return ids, labels

    def decode(self, ids: Sequence[int]) -> str:
        """Text with its special tokens, without outer white space."""
        return self.tokenizer.decode(ids, skip_special_tokens=False).strip()

    def _region_ids(self, region_sizes: Sequence[int], text: str) -> list[int]:
        """The list of regions that follows an image (docs/en/model_spec.md section 3), then `text`."""
        if not region_sizes:
            return self._encode_text(text)
        ids, lead = [], f"\nThere are {len(region_sizes)} part regions in the picture: "
        for number, size in enumerate(region_sizes, start=1):
            ids += [*self._encode_text(f"{lead}region{number}"), token_id(self.tokenizer, "<vp>")]
            ids += [*[self.image_token_id] * size, token_id(self.tokenizer, "</vp>")]
            lead = ", "
        return ids + self._encode_text(".\n" + text)

    def _encode_special(self, trusted: str, text: str = "") -> list[int]:
        """Encodes a piece of the template, whose special tokens are tokens, with `text` behind it, whose are not."""
        cut = trusted.rfind("|>") + len("|>")  # the end of the template's last special token
        ids = self._encode(trusted[:cut])
        # What follows it is encoded together with the text: upstream encodes the whole prompt in one call.
        return ids + self._encode_text(trusted[cut:] + text)

    def _encode_text(self, text: str) -> list[int]:
        return self._encode(text, split_special_tokens=True) if text else []

    def _encode(self, text: str, split_special_tokens: bool = False) -> list[int]:
        with _ENCODING:
            return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split_special_tokens)


def token_id(tokenizer, token: str) -> int:
    """Id of a token that must be one.

    Raises:
        ValueError: the tokenizer does not know it as one token.
    """
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise ValueError(f"The tokenizer has no token {token}: it is not a Sa2VA tokenizer. Add {NEW_TOKENS} first.")
    return found


def normalize_tiles(pixels: Tensor) -> Tensor:
    """(T, 3, S, S) uint8 -> (T, 3, S, S) float32, ImageNet-normalised; the same bits on every device."""
    white, mean, std = _white_mean_std(pixels.device)
    return (pixels.float() / white - mean) / std


@lru_cache
def _white_mean_std(device: torch.device) -> tuple[Tensor, ...]:
    """Each (C, 1, 1). White is a tensor, because a GPU turns division by a number into a product with its rounded
    inverse."""
    return tuple(torch.tensor(v, device=device).view(-1, 1, 1) for v in ([255.0], IMAGE_MEAN, IMAGE_STD))


def tile_grid(width: int, height: int, min_tiles: int, max_tiles: int, tile_size: int) -> tuple[int, int]:
    """(columns, rows) of the grid whose aspect ratio is closest to the image's (docs/en/model_spec.md section 2.1).

    Of equally close grids a later, larger one is taken only where the image has more than half of its pixels.
    """
    grids = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1)]
    grids = sorted({grid for grid in grids if min_tiles <= grid[0] * grid[1] <= max_tiles}, key=lambda g: g[0] * g[1])
    aspect_ratio, best, smallest_difference = width / height, (1, 1), float("inf")
    for columns, rows in grids:
        difference = abs(aspect_ratio - columns / rows)
        large_enough = width * height > 0.5 * tile_size * tile_size * columns * rows
        if difference < smallest_difference or (difference == smallest_difference and large_enough):
            smallest_difference, best = difference, (columns, rows)
    return best
