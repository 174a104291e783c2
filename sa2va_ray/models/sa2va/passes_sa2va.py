"""The forward passes that an answer takes, as they are. Whoever runs them faster gives `segment` passes of its own.

Shapes: B images or prompts, T tiles, K tokens of a tile, L tokens, D width of the language model, N objects, G side of
SAM 2's image, h = G / 4.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .grounding_sam2 import normalize_grounding_images


class Passes:
    """Runs the model's modules as they are called in training, which processes that share weights (ZeRO-3) rely on.

    Attributes:
        encodes_ahead: whether SAM 2's encoder may run before it is known that the answer has a [SEG], for the time
            that this saves where a draft is right.
    """

    encodes_ahead = False
    prefill: Callable[[Tensor], Tensor] | None = None
    """(B, L, D) right-padded embeddings -> hidden states (B, L, D), without a cache; None where there is no quicker
    way than the language model's own."""

    def __init__(self, model):
        self.model = model

    def answering(self) -> AbstractContextManager:
        """The context in which an answer is made."""
        return nullcontext()

    def encode_tiles(self, tiles: Tensor) -> Tensor:
        """(T, 3, S, S) float32 -> (T, K, D)."""
        return self.model.encode_tiles(tiles)

    def encode_images(self, pixels: Tensor) -> Any:
        """(B, 3, G, G) uint8 -> what `decode_masks` takes."""
        return normalize_grounding_images(pixels, self.model.dtype, constants_dtype=torch.bfloat16)

    def decode_masks(self, encoded: Any, seg_states: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits (N, h, h) float32 and IoU (N,).

        Args:
            encoded: B images, as `encode_images` gave them.
            seg_states: (N, D) hidden states at the [SEG] tokens.
            image_index: (N,) int64, in 0..B-1, which image an object belongs to.
        """
        return self.model.grounding_encoder(encoded, self.model.text_hidden_fcs(seg_states), image_index)
