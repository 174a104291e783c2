"""The only thing that stands between data and model.

Shapes: B images, T tiles of all images, L tokens, N objects of one image, S side of a tile, G side of SAM 2's image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

_IGNORED = -100  # torch's own sign for it
_COPIED_AT_ONCE = 64 * 2**10  # bytes, up to which CUDA takes a copy from any memory and goes on


@dataclass
class Batch:
    """Attributes:
    input_ids: (B, L) int64, right-padded with 0.
    attention_mask: (B, L) bool.
    labels: (B, L) int64, -100 where nothing is supervised.
    pixel_values: (T, 3, S, S) uint8; `processing_sa2va.normalize_tiles` makes them the model's input.
    num_tiles: (B,) int64.
    grounding_pixel_values: (B, 3, G, G) uint8.
    masks: B tensors (N, H, W) bool.
    ignored: B tensors (1, H, W) bool of the pixels that are neither object nor background; (0, H, W) where all count.
    sample_ids: B pseudonyms.
    skeletons: as `masks`, their widened skeletons, where `PipelineConfig.skeleton_radius_px` asks for them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    pixel_values: Tensor
    num_tiles: Tensor
    grounding_pixel_values: Tensor
    masks: list[Tensor]
    ignored: list[Tensor]
    sample_ids: list[str]
    skeletons: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def num_masks(self) -> int:
        """Masks of all images."""
        return sum(map(len, self.masks))

    def supervised(self) -> Tensor:
        """(B, L - 1) bool: which of the tokens that follow another are to be learnt."""
        return self.labels[:, 1:] != _IGNORED

    def to(self, device: torch.device) -> Self:
        """The same batch on another device. What is pinned is copied when the GPU comes to it, and nobody waits."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """The same batch with its large tensors in memory from which a GPU copies by itself. It takes some 5 ms a
        tensor on an H200's host, so it is done beside the training."""
        return self._changed(lambda tensor: tensor.pin_memory() if tensor.nbytes > _COPIED_AT_ONCE else tensor)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{field.name: _changed(getattr(self, field.name), change) for field in fields(self)})


def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Rows of `preprocess` (see pipeline.py) -> Batch."""
    return Batch(
        input_ids=_pad([row["input_ids"] for row in rows], 0),
        attention_mask=_pad([np.ones(len(row["input_ids"]), bool) for row in rows], False),
        labels=_pad([row["labels"] for row in rows], _IGNORED),
        pixel_values=torch.from_numpy(np.concatenate([row["pixel_values"] for row in rows])),
        num_tiles=torch.tensor([len(row["pixel_values"]) for row in rows]),
        grounding_pixel_values=torch.from_numpy(np.stack([row["grounding_pixel_values"] for row in rows])),
        masks=[torch.from_numpy(np.array(row["masks"])) for row in rows],
        ignored=[torch.from_numpy(np.array(row["ignored"])) for row in rows],
        sample_ids=[str(row["sample_id"]) for row in rows],
        skeletons=[torch.from_numpy(np.array(row["skeletons"])) for row in rows] if "skeletons" in rows[0] else None,
    )


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`change` of a tensor or of a list of tensors; anything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    return [_changed(each, change) for each in value] if isinstance(value, list) else value


def _pad(rows: Sequence[np.ndarray], value: int | bool) -> Tensor:
    tensors = [torch.from_numpy(np.array(row)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
