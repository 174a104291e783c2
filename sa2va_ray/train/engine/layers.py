"""How the model's layers are run: once more in the backward pass, or compiled."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from sa2va_ray.models.compiler import set_up_compiler
from sa2va_ray.models.parts import ENCODERS, IMAGE_ENCODER, LANGUAGE_MODEL, VISION_ENCODER, Part
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel

_LARGEST_PIECE = 8


def recompute_activations(model: Sa2VAModel) -> None:
    """Layers of the language model, and of the vision encoders that train, keep their input only and run once more in
    the backward pass. A frozen encoder keeps nothing anyway."""
    for part in (LANGUAGE_MODEL, VISION_ENCODER, IMAGE_ENCODER):
        module: Any = model.get_submodule(part.module)
        if not trains(module):
            continue
        if isinstance(module, PreTrainedModel):
            module.activation_checkpointing_enable({"use_reentrant": False})
        else:
            for layer in layers(model, part):
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(model: Sa2VAModel, strategy: str, micro_batch_size: int) -> None:
    """torch.compile of the layers of the language model and the encoders, one by one: those of a kind share one
    compilation, and whatever else is between them stays as it is.

    SAM 2's layers are compiled for one number of images, since compiling them for any takes minutes; so its trunk gets
    them in pieces of one size, however many a micro batch has. It works as fast on four as on more. Left to itself,
    torch compiles the second kind of layer for any width and window, too: eight kinds took 39 s, with sizes as they
    are 3 s.

    Encoders that train under ZeRO-3 are left out: its hooks in their layers would break each graph in pieces."""
    set_up_compiler()
    for part in (LANGUAGE_MODEL, *ENCODERS.values()):
        if part in ENCODERS.values() and strategy != "zero2" and trains(model.get_submodule(part.module)):
            continue
        if part is IMAGE_ENCODER:
            trunk: Any = model.get_submodule(part.layers_module.rpartition(".")[0])
            trunk.forward = partial(run_in_pieces, trunk.forward, piece_size(micro_batch_size))
        for layer in layers(model, part):
            # `forward`, not the layer: what DeepSpeed hangs onto a layer is to stay outside.
            layer.forward = torch.compile(layer.forward, dynamic=part is not IMAGE_ENCODER)


def piece_size(micro_batch_size: int) -> int:
    """The number of images of a piece: micro batches of full size are cut into as few equal ones as can be."""
    num_pieces = -(-micro_batch_size // _LARGEST_PIECE)
    return -(-micro_batch_size // num_pieces)


def run_in_pieces(function: Callable[[Tensor], list[Tensor]], size: int, images: Tensor) -> list[Tensor]:
    """`function` of (B, ...) images, `size` at a time; the last piece is filled up with zeros, and what becomes of them
    is left out. Gives the same as all at once where images do not depend on one another."""
    pieces = [F.pad(piece, (0, 0) * (piece.ndim - 1) + (0, size - len(piece))) for piece in images.split(size)]
    levels = zip(*map(function, pieces), strict=True)
    return [torch.cat(level)[: len(images)] for level in levels]


def layers(model: Sa2VAModel, part: Part) -> Iterator[Any]:
    """The layers of a part, in their order."""
    return model.get_submodule(part.layers_module).children()


def trains(module: nn.Module) -> bool:
    """Whether any parameter of a module trains."""
    return any(parameter.requires_grad for parameter in module.parameters())
