"""Refuses quantised weights, whose stored numbers mean nothing without the scales beside them.

Taken as plain numbers they fit by name and shape, and the model answers with other masks.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sa2va_ray.config import UserError
from sa2va_ray.models.loading.report import some
from sa2va_ray.models.loading.weight_files import WeightSource
from sa2va_ray.models.quantisation import QUANTISATION_KEY, is_known

_PLAIN = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_CONFIGS = (QUANTISATION_KEY, "compression_config")
_CONFIG_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
# Ends of names that stand beside a weight, or in its place: fp8, bitsandbytes, GPTQ, AWQ, compressed-tensors.
_BESIDE_WEIGHT = re.compile(r"scale|scb$|zero|quant|packed|absmax|g_idx|qweight|weight_(format|shape)", re.IGNORECASE)
_CURE = "Give the folder of its full weights (bfloat16, float16 or float32), as its authors publish it."


def check_config(folder: Path, values: dict[str, Any], location: str, may_be_quantised: bool) -> None:
    """
    Args:
        values: of config.json.
        may_be_quantised: whether weights of 8 bits that `jobs.export` has made are allowed.

    Raises:
        UserError: the folder says itself that its weights are quantised.
    """
    if may_be_quantised and values.get("architectures") == ["Sa2VAModel"] and is_known(values.get(QUANTISATION_KEY)):
        return
    found = [str(config.get("quant_method", "of an unnamed kind")) for config in _quantisation_configs(values)]
    found += [name for name in _CONFIG_FILES if (folder / name).is_file()]
    if found:
        raise UserError(f"{location} holds quantised weights ({', '.join(sorted(set(found)))}). {_CURE}")


def check_tensors(expected: Collection[str], sources: Sequence[WeightSource]) -> None:
    """
    Args:
        expected: names of the model's tensors.

    Raises:
        UserError: tensors of the model that are stored in an integer or 8-bit type, or have scales beside them.
    """
    for source in sources:
        typed = {name: stored.dtype for name, stored in source.tensors.items() if name in expected}
        wrong = [
            f"{name} as {str(dtype).removeprefix('torch.')}" for name, dtype in typed.items() if dtype not in _PLAIN
        ]
        beside = [name for name in source.tensors if name not in expected and _is_beside(name, expected)]
        if wrong or beside:
            raise UserError(
                f"{source.location} holds quantised weights: {len(wrong)} tensors are stored in another type than "
                f"plain floating point [{some(wrong)}], {len(beside)} are scales and the like [{some(beside)}]. {_CURE}"
            )


def _quantisation_configs(values: Any) -> Iterator[dict[str, Any]]:
    """Settings of quantisation in a config.json, at its top and in its parts."""
    if isinstance(values, dict):
        yield from (values[key] for key in _CONFIGS if isinstance(values.get(key), dict))
        for key, value in values.items():
            if key not in _CONFIGS:
                yield from _quantisation_configs(value)


def _is_beside(name: str, expected: Collection[str]) -> bool:
    """Whether a name is that of a weight with something behind it, as `q_proj.weight_scale_inv` or
    `q_proj.weight.absmax`: a `logit_scale` of its own is none."""
    parts = name.split(".")
    owners = (".".join(parts[:end]) for end in range(1, len(parts)))
    beside = (name[len(owner) + 1 :] for owner in owners if owner in expected or f"{owner}.weight" in expected)
    return any(_BESIDE_WEIGHT.search(each) for each in beside)
