"""How the model's layers are run: once more in the backward pass, on pieces of a batch, or compiled."""

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

_LARGEST_COMPILED_PIECE = 8
_MOST_WINDOWS = 2**16 - 1  # of a batch: attention on a GPU is launched with as many blocks, counted in 16 bits


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
            size = piece_size(micro_batch_size, min(_LARGEST_COMPILED_PIECE, _most_images(model)))
            trunk = _trunk(model)
            trunk.forward = partial(run_in_pieces, trunk.forward, size, fill_up=True)
        for layer in layers(model, part):
            # `forward`, not the layer: what DeepSpeed hangs onto a layer is to stay outside.
            layer.forward = torch.compile(layer.forward, dynamic=part is not IMAGE_ENCODER)


def cut_large_batches(model: Sa2VAModel, micro_batch_size: int) -> None:
    """SAM 2's trunk gets no more images at a time than its attention takes on a GPU: 64 of 1,024 px have 65,536
    windows, one too many, and the backward pass failed."""
    if micro_batch_size > _most_images(model):
        trunk = _trunk(model)
        trunk.forward = partial(run_in_pieces, trunk.forward, piece_size(micro_batch_size, _most_images(model)))


def _most_images(model: Sa2VAModel) -> int:
    """Each stage has half the side of the one before, and windows of a size of its own."""
    trunk = _trunk(model)
    side = model.config.grounding_size // trunk.patch_embed.proj.stride[0]
    sides = [-(-side // 2**stage // window) for stage, window in enumerate(trunk.window_spec)]
    return max(1, _MOST_WINDOWS // max(sides) ** 2)


def _trunk(model: Sa2VAModel) -> Any:
    return model.get_submodule(IMAGE_ENCODER.layers_module.rpartition(".")[0])


def piece_size(micro_batch_size: int, largest: int) -> int:
    """The number of images of a piece: micro batches of full size are cut into as few equal ones as can be."""
    num_pieces = -(-micro_batch_size // largest)
    return -(-micro_batch_size // num_pieces)


def run_in_pieces(
    function: Callable[[Tensor], list[Tensor]], size: int, images: Tensor, fill_up: bool = False
) -> list[Tensor]:
    """`function` of (B, ...) images, `size` at a time. Gives the same as all at once where images do not depend on one
    another.

    Args:
        fill_up: the last piece, with zeros, so that all have one size; what becomes of these is left out.
    """
    pieces = images.split(size)
    if fill_up:
        pieces = [F.pad(piece, (0, 0) * (piece.ndim - 1) + (0, size - len(piece))) for piece in pieces]
    levels = zip(*map(function, pieces), strict=True)
    return [torch.cat(level)[: len(images)] for level in levels]


def layers(model: Sa2VAModel, part: Part) -> Iterator[Any]:
    """The layers of a part, in their order."""
    return model.get_submodule(part.layers_module).children()


def trains(module: nn.Module) -> bool:
    """Whether any parameter of a module trains."""
    return any(parameter.requires_grad for parameter in module.parameters())
