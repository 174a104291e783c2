"""Trained tensors folded into their base, one weight at a time: float32 sums, rounded once to bfloat16.

This is arithmetic of its own, on the files of a checkpoint; `unmerged.py` holds its result against peft's.
"""

import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from sa2va_ray.config import UserError
from sa2va_ray.models.loading.key_layouts import adapter_target
from sa2va_ray.models.loading.place import check_finite_weights
from sa2va_ray.models.loading.report import some
from sa2va_ray.models.trained_weights import LocalCheckpoint

STORED_DTYPE = torch.bfloat16
_ROWS = re.compile(r"^(.*)\.token_adapter\.trainable_tokens_delta\.default$")
_WHOLE, _NEW_ROWS = "whole", "rows"


class Trained:
    """What a checkpoint says of each weight of the plain model; files are opened, tensors read when asked for."""

    def __init__(self, checkpoint: LocalCheckpoint, new_ids: list[int]):
        """
        Args:
            new_ids: rows of embedding and LM head that were trained, where these were not trained whole.
        """
        trainable = checkpoint.model_config.trainable
        self._uri, self._new_ids = checkpoint.uri, new_ids
        self._scale = trainable.lora_alpha / trainable.lora_rank
        self._parts: dict[str, dict[str, tuple[Path, str]]] = {}
        for path in checkpoint.files:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    name, part = _target(key)
                    self._parts.setdefault(name, {})[part] = (path, key)

    def check(self, names: set[str]) -> None:
        """Checks that every tensor has its place.

        Raises:
            UserError: a tensor that no weight in `names` takes, or half an adapter.
        """
        unknown = sorted(self._parts.keys() - names)
        halves = [name for name, parts in self._parts.items() if len(parts.keys() & {"A", "B"}) == 1]
        if unknown or halves:
            raise UserError(
                f"{self._uri} does not fit its own config: of {len(self._parts)} weights that it changes "
                f"{len(unknown)} are unknown [{some(unknown)}], {len(halves)} have half an adapter [{some(halves)}]. "
                "The checkpoint is of another version of sa2va_ray."
            )

    def merge(self, name: str, base: Tensor) -> Tensor:
        """The weight as it is stored, bfloat16. `base` may be changed in place.

        Raises:
            UserError: what was trained made it NaN or infinite.
        """
        parts = self._parts.get(name, {})
        merged = self._merged(parts, base).to(STORED_DTYPE)
        for path, _ in list(parts.values())[:1]:
            check_finite_weights(merged, name, path)
        return merged

    def _merged(self, parts: dict[str, tuple[Path, str]], base: Tensor) -> Tensor:
        if _WHOLE in parts:
            return _read(parts[_WHOLE])
        if _NEW_ROWS in parts:
            base[self._new_ids] = _read(parts[_NEW_ROWS]).to(base.dtype)
        if "A" in parts:
            change = _read(parts["B"]).float() @ _read(parts["A"]).float()
            return change.mul_(self._scale).add_(base)
        return base


def _target(key: str) -> tuple[str, str]:
    """(name of the plain model's weight, how the tensor changes it)"""
    if adapted := adapter_target(key):
        return adapted
    if rows := _ROWS.match(key):
        return f"{rows[1]}.weight", _NEW_ROWS
    return key, _WHOLE


def _read(place: tuple[Path, str]) -> Tensor:
    with safe_open(place[0], framework="pt") as file:  # closed at once: a mapped file's pages count as memory
        return file.get_tensor(place[1])
