"""What trains: LoRA adapters (peft) and unfrozen parts, by config. The only file that imports peft."""

from collections.abc import Iterator
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor

from sa2va_ray.models.config import TrainableConfig
from sa2va_ray.models.parts import (
    IMAGE_ENCODER,
    LANGUAGE_MODEL,
    LM_HEAD,
    MASK_DECODER,
    PROJECTOR,
    SEG_HEAD,
    TOKEN_EMBEDDING,
    VISION_ENCODER,
    Part,
)
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import NEW_TOKENS, Sa2VAProcessor, token_id


def make_trainable(model: Sa2VAModel, processor: Sa2VAProcessor, config: TrainableConfig) -> PeftModel:
    """Adds adapters to `model` in place, sets `requires_grad` on every parameter, and puts it into training mode.

    Returns:
        peft's handle on the same model.
    """
    adapted = [LANGUAGE_MODEL, *config.encoders("lora")]
    new_ids = [token_id(processor.tokenizer, token) for token in NEW_TOKENS]
    new_rows = {TOKEN_EMBEDDING.module: new_ids, LM_HEAD.module: new_ids}
    peft_model = get_peft_model(
        model,
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="|".join(part.adapter_targets for part in adapted),
            trainable_token_indices=new_rows if config.embeddings == "new_tokens" else None,
        ),
        autocast_adapter_dtype=False,  # no silent float32 copies of what is bfloat16
    )
    for part in _unfrozen_parts(config):
        model.get_submodule(part.module).requires_grad_(True)
        for name in part.parameters:
            model.get_parameter(name).requires_grad_(True)
    model.train()
    if config.vision_encoder == "frozen":
        # No drop path or dropout in what cannot adapt to it (docs/en/model_spec.md section 7, trap 15).
        model.get_submodule(VISION_ENCODER.module).eval()
    for name, parameter in model.named_parameters():
        if MASK_DECODER.is_unused(name):
            parameter.requires_grad_(False)
    return peft_model


def merged_tensors(model: Sa2VAModel) -> Iterator[tuple[str, Tensor, bool]]:
    """Yields the weights that merging would give, while the model keeps its adapters: for each weight of the plain
    model its name, its value by peft's own formula in the adapters' precision, and whether it was trained."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".base_layer.")
        if not owner:
            if ".lora_" not in name and ".trainable_tokens_" not in name:
                yield name, tensor, name in trained
            continue
        plain = f"{owner.removesuffix('.token_adapter')}.{leaf}"
        layer: Any = model.get_submodule(owner)
        if leaf != "weight":
            yield plain, tensor, name in trained
        elif isinstance(layer, TrainableTokensLayer):
            yield plain, layer.get_merged_weights(["default"]).detach(), True
        else:
            yield plain, tensor + layer.get_delta_weight("default").detach(), True


def _unfrozen_parts(config: TrainableConfig) -> Iterator[Part]:
    yield SEG_HEAD
    if config.projector:
        yield PROJECTOR
    if config.mask_decoder:
        yield MASK_DECODER
    if config.image_encoder == "full":
        yield IMAGE_ENCODER
    if config.embeddings == "all":
        yield from (TOKEN_EMBEDDING, LM_HEAD)
