"""The only thing that stands between data and model.

Shapes: B images, T tiles of all images, L tokens, N objects of one image, S side of a tile, G side of SAM 2's image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


@dataclass
class Batch:
    """Attributes:
    input_ids: (B, L) int64, right-padded with 0.
    attention_mask: (B, L) bool.
    labels: (B, L) int64, -100 where nothing is supervised.
    pixel_values: (T, 3, S, S) float32.
    num_tiles: (B,) int64.
    grounding_pixel_values: (B, 3, G, G) uint8.
    masks: B tensors (N, H, W) bool.
    sample_ids: B pseudonyms.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    pixel_values: Tensor
    num_tiles: Tensor
    grounding_pixel_values: Tensor
    masks: list[Tensor]
    sample_ids: list[str]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return type(self)(**{**values, **moved, "masks": [mask.to(device) for mask in self.masks]})


def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Rows of `Preprocess` (see pipeline.py) -> Batch."""
    return Batch(
        input_ids=_pad([row["input_ids"] for row in rows], 0),
        attention_mask=_pad([np.ones(len(row["input_ids"]), bool) for row in rows], False),
        labels=_pad([row["labels"] for row in rows], -100),
        pixel_values=torch.from_numpy(np.concatenate([row["pixel_values"] for row in rows])),
        num_tiles=torch.tensor([len(row["pixel_values"]) for row in rows]),
        grounding_pixel_values=torch.from_numpy(np.stack([row["grounding_pixel_values"] for row in rows])),
        masks=[torch.from_numpy(np.array(row["masks"])) for row in rows],
        sample_ids=[str(row["sample_id"]) for row in rows],
    )


def _pad(rows: Sequence[np.ndarray], value: int | bool) -> Tensor:
    tensors = [torch.from_numpy(np.array(row)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
