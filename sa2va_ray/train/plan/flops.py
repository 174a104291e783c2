"""Floating-point operations of a training step, and the share of the hardware's that they take (MFU).

Counted once with `FlopCounterMode` on a copy of the model without memory (meta device), forward and backward, so that
what autograd leaves out for frozen weights is left out here too. In a model with LoRA the backward pass of the language
model costs about one forward (gradients of activations) instead of two, and a frozen encoder costs none. Recomputation
by activation checkpointing is not counted: it is time, not work. Attention counts all L x L pairs, masked or not.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sa2va_ray.data.batch import Batch
from sa2va_ray.models.parts import (
    LANGUAGE_MODEL,
    LM_HEAD,
    PROJECTOR,
    SEG_HEAD,
    TOKEN_EMBEDDING,
    VISION_ENCODER,
    Part,
)
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel

# Dense bf16 on tensor cores with float32 accumulation, FLOP/s, from NVIDIA's data sheets and architecture white papers
# (where these give only the figure with sparsity: half of it). The first pattern that is found in the name counts.
_PEAKS: dict[str, float] = {
    r"H100 PCIe": 756e12,
    r"H[12]00 NVL": 835e12,
    r"H100|H200|GH200": 989e12,
    r"A100\b": 312e12,
    r"A10G?$": 125e12,
    r"L40S": 362e12,
    r"RTX 6000 Ada": 364e12,
    r"RTX A6000": 155e12,
    r"RTX 4090$": 165.2e12,
    r"RTX 3090 Ti$": 80e12,
    r"RTX 3090$": 71e12,
}


@dataclass(frozen=True)
class FlopCounts:
    """Operations forward and backward, for each thing that a batch holds. A language model's cost is linear and
    quadratic in the length L."""

    per_tile: float
    per_token: float
    per_token_pair: float
    per_target: float
    """Operations of the language model's head at a supervised token."""
    per_image: float
    """Operations of SAM 2's image encoder."""
    per_object: float

    def of_batch(self, batch: Batch) -> float:
        """Operations of one pass forward and backward; padding is no work."""
        lengths = batch.attention_mask.sum(dim=1).double()
        return float(
            self.per_tile * int(batch.num_tiles.sum())
            + self.per_token * lengths.sum()
            + self.per_token_pair * lengths.square().sum()
            + self.per_target * int((batch.labels[:, 1:] >= 0).sum())
            + self.per_image * len(batch)
            + self.per_object * sum(len(masks) for masks in batch.masks)
        )


def count_flops(model: Sa2VAModel) -> FlopCounts:
    """Counts for a model after `make_trainable` and before DeepSpeed takes it; the model itself is not touched."""
    empty = _without_memory(model)
    config, width = empty.config, empty.config.hidden_size
    trains_input = any(
        parameter.requires_grad
        for part in (VISION_ENCODER, PROJECTOR, TOKEN_EMBEDDING)
        for parameter in empty.get_submodule(part.module).parameters()
    )

    def language_model(length: int) -> float:
        embeddings = _meta(1, length, width, requires_grad=trains_input)
        mask = _meta(1, 1, length, length)
        layers = empty.get_submodule(LANGUAGE_MODEL.module)
        return _count_all_layers(
            empty,
            LANGUAGE_MODEL,
            lambda: _count(layers, inputs_embeds=embeddings, attention_mask=mask, use_cache=False),
        )

    image = _meta(1, 3, config.grounding_size, config.grounding_size)
    encoder, features = _count_and_keep(empty.grounding_encoder.encode, image)

    def decoder(num_objects: int) -> float:
        embeddings = _meta(num_objects, empty.grounding_encoder.embedding_size, requires_grad=True)
        of_objects = [_meta(num_objects, *each.shape[1:], requires_grad=each.requires_grad) for each in features]
        return _count(empty.grounding_encoder.decode, *of_objects, embeddings)

    length = 256
    short, long = language_model(length), language_model(2 * length)
    per_token_pair = (long - 2 * short) / (2 * length**2)
    one, two = decoder(1), decoder(2)
    tile = _meta(1, 3, config.tile_size, config.tile_size)
    return FlopCounts(
        per_tile=_count_all_layers(empty, VISION_ENCODER, lambda: _count(empty.encode_tiles, tile)),
        per_token=short / length - per_token_pair * length,
        per_token_pair=per_token_pair,
        per_target=_count(empty.get_submodule(LM_HEAD.module), _meta(1, width, requires_grad=True)),
        per_image=encoder + 2 * one - two,
        per_object=two - one + _count(empty.get_submodule(SEG_HEAD.module), _meta(1, width, requires_grad=True)),
    )


def device_peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s that a device could do at most; None where it is not known."""
    return named_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def named_peak(device_name: str, precision: str) -> float | None:
    """The same for a device of this name; known for some GPUs in "bf16", and for no slice of one."""
    if precision != "bf16" or " MIG " in device_name:
        return None
    return next((peak for pattern, peak in _PEAKS.items() if re.search(pattern, device_name)), None)


def _without_memory(model: Sa2VAModel) -> Sa2VAModel:
    """A copy whose parameters and buffers have shapes only. float32, whatever the model is: SAM 2 mixes types."""
    empty: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = torch.empty_like(parameter, device="meta", dtype=torch.float32)
        empty[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        empty[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, empty)


def _meta(*shape: int, requires_grad: bool = False) -> Tensor:
    return torch.empty(*shape, device="meta", requires_grad=requires_grad)


def _count_all_layers(model: Sa2VAModel, part: Part, count: Callable[[], float]) -> float:
    """`count()` with all layers of a part, from what it gives with one and with two: each further one is like the
    second. Layer by layer it would take a worker ten seconds of an 8B model's start."""
    owner, _, name = part.layers_module.rpartition(".")
    parent: Any = model.get_submodule(owner)
    layers = getattr(parent, name)
    counts = []
    for number in (1, 2):
        setattr(parent, name, layers[:number])
        counts.append(count())
    setattr(parent, name, layers)
    one, two = counts
    return one + (len(layers) - 1) * (two - one)


def _count(function: Callable[..., Any], *arguments: Tensor, **options: Any) -> float:
    """Operations of a call, and of the backward pass from all that it returns."""
    return _count_and_keep(function, *arguments, **options)[0]


def _count_and_keep(function: Callable[..., Any], *arguments: Tensor, **options: Any) -> tuple[float, list[Tensor]]:
    """The same, and what it returns."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = function(*arguments, **options)
        tensors = _tensors(output)
        differentiable = [tensor.sum() for tensor in tensors if tensor.requires_grad]
        if differentiable:
            torch.autograd.backward(differentiable)
    return float(counter.get_total_flops()), tensors


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [each for each in (output if isinstance(output, tuple) else output.values()) if isinstance(each, Tensor)]
