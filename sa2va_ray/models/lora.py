"""What trains: LoRA adapters (peft) and unfrozen parts, by config. The only file that imports peft."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.trainable_tokens import TrainableTokensLayer
from pydantic import Field
from torch import Tensor

from sa2va_ray.config import Config
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import NEW_TOKENS, Sa2VAProcessor, token_id

_SAM2 = "grounding_encoder.sam2_model"
_LORA_TARGETS = {
    "language_model": r"language_model\.model\.layers\..*\.(q|k|v|o|gate|up|down)_proj",
    "vision_encoder": r"vision_model\.encoder\..*\.(q_proj|k_proj|v_proj|projection_layer|fc1|fc2)",
    "image_encoder": rf"{re.escape(_SAM2)}\.image_encoder\.trunk\.blocks\..*\.(qkv|attn\.proj|mlp\.layers\.\d)",
}
# Parts of the mask decoder whose output Sa2VA does not use: they can never get a gradient.
_UNUSED = ("iou_prediction_head", "pred_obj_score_head", "output_hypernetworks_mlps.0.")
GROUPS = {
    "lora": r"\.lora_[AB]\.",
    "embeddings": r"trainable_tokens_delta|^language_model\.(model\.embed_tokens|lm_head)\.",
    "projector": r"^mlp1\.",
    "text_hidden_fcs": r"^text_hidden_fcs\.",
    "mask_decoder": rf"^{re.escape(_SAM2)}\.sam_mask_decoder\.",
    "image_encoder": rf"^{re.escape(_SAM2)}\.(image_encoder\.|no_mem_embed)",
}


class TrainableConfig(Config):
    """Which parts train. What is not named here is frozen: the prompt encoder and the memory parts of SAM 2."""

    lora_rank: int = Field(64, gt=0)
    lora_alpha: int = Field(128, gt=0)
    """An adapter's output is scaled by alpha / rank."""
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    embeddings: Literal["new_tokens", "all"] = "new_tokens"
    """`new_tokens`: only the rows of [SEG] and its four fellows, in the embedding and in the LM head."""
    projector: bool = True
    mask_decoder: bool = True
    vision_encoder: Literal["frozen", "lora"] = "frozen"
    image_encoder: Literal["frozen", "lora", "full"] = "frozen"
    """SAM 2's image encoder. `full` is for models without pretraining."""


def make_trainable(model: Sa2VAModel, processor: Sa2VAProcessor, config: TrainableConfig) -> PeftModel:
    """Adds adapters to `model` in place, sets `requires_grad` on every parameter, and puts it into training mode.

    Returns:
        peft's handle on the same model, which `merge_adapters` takes.
    """
    adapted = ["language_model"]
    adapted += ["vision_encoder"] if config.vision_encoder == "lora" else []
    adapted += ["image_encoder"] if config.image_encoder == "lora" else []
    new_ids = [token_id(processor.tokenizer, token) for token in NEW_TOKENS]
    new_rows = {"language_model.model.embed_tokens": new_ids, "language_model.lm_head": new_ids}
    peft_model = get_peft_model(
        model,
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="|".join(_LORA_TARGETS[part] for part in adapted),
            trainable_token_indices=new_rows if config.embeddings == "new_tokens" else None,
        ),
        autocast_adapter_dtype=False,  # no silent float32 copies of what is bfloat16
    )
    for name in _unfrozen_parts(config):
        model.get_submodule(name).requires_grad_(True)
    if config.image_encoder == "full":
        model.get_submodule(_SAM2).no_mem_embed.requires_grad_(True)
    model.train()
    if config.vision_encoder == "frozen":
        # No drop path or dropout in what cannot adapt to it (docs/model_spec.md section 7, trap 15).
        model.vision_model.eval()
    for name, parameter in model.named_parameters():
        if any(f"sam_mask_decoder.{unused}" in name for unused in _UNUSED):
            parameter.requires_grad_(False)
    return peft_model


def merge_adapters(peft_model: PeftModel) -> Sa2VAModel:
    """Folds adapters and new-token rows into the weights; the model has its plain parameters again."""
    return peft_model.merge_and_unload()


def merged_tensors(model: Sa2VAModel) -> Iterator[tuple[str, Tensor, bool]]:
    """What merging would make of a model with adapters, which stays as it is: for each weight of the plain model its
    name, its value by peft's own formula in the adapters' precision, and whether it was trained."""
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


def count_trainable(model: Sa2VAModel) -> dict[str, int]:
    """Number of trained values by group, in the order of `GROUPS`; groups without any are left out."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    counts = {group: _count(trained, pattern) for group, pattern in GROUPS.items()}
    return {group: count for group, count in counts.items() if count}


def _count(parameters: dict, pattern: str) -> int:
    # A ZeRO-3 partition leaves an empty tensor behind, which knows its size as `ds_numel`.
    return sum(getattr(p, "ds_numel", p.numel()) for name, p in parameters.items() if re.search(pattern, name))


def _unfrozen_parts(config: TrainableConfig) -> Sequence[str]:
    parts = ["text_hidden_fcs"]
    parts += ["mlp1"] if config.projector else []
    parts += [f"{_SAM2}.sam_mask_decoder"] if config.mask_decoder else []
    parts += [f"{_SAM2}.image_encoder"] if config.image_encoder == "full" else []
    parts += ["language_model.model.embed_tokens", "language_model.lm_head"] if config.embeddings == "all" else []
    return parts
