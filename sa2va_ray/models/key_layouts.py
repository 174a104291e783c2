"""From the tensor names that people have to ours (spec sections 1.1 to 1.7). Pure functions on names.

Ours are upstream's five children, with transformers' names inside `vision_model`. One set of rules serves all layouts,
since none of them changes a name that another one means differently: upstream's folder, InternVL3's, its "-hf" twin in
both prefix styles, XTuner's checkpoints with and without adapters, and ours, which comes out as it went in.
"""

import re
from dataclasses import dataclass

SAM2_PREFIX = "grounding_encoder.sam2_model."
EMBEDDING, LM_HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
MODULES = ("vision_model", "mlp1", "language_model", "text_hidden_fcs", "mask_decoder", "grounding_encoder")

_LAYER = r"^(vision_model\.encoder\.layer\.\d+)"
_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # XTuner and peft
        (r"^mllm\.model\.", ""),
        (r"^language_model\.base_model\.model\.", "language_model."),
        (r"\.(modules_to_save\.default|base_layer)\.", "."),
        # "-hf" folders: those saved by transformers >= 4.52, then what they share with older ones
        (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^vision_tower\.", "vision_model."),
        (r"^multi_modal_projector\.layer_norm\.", "mlp1.0."),
        (r"^multi_modal_projector\.linear_1\.", "mlp1.1."),
        (r"^multi_modal_projector\.linear_2\.", "mlp1.3."),
        # upstream's InternViT
        (r"^vision_model\.embeddings\.class_embedding$", "vision_model.embeddings.cls_token"),
        (r"^vision_model\.embeddings\.position_embedding$", "vision_model.embeddings.position_embeddings"),
        (r"^vision_model\.embeddings\.patch_embedding\.", "vision_model.embeddings.patch_embeddings.projection."),
        (r"^vision_model\.encoder\.layers\.", "vision_model.encoder.layer."),
        (_LAYER + r"\.ls([12])$", r"\1.lambda_\2"),
        (_LAYER + r"\.norm1\.", r"\1.layernorm_before."),
        (_LAYER + r"\.norm2\.", r"\1.layernorm_after."),
        (_LAYER + r"\.attn\.proj\.", r"\1.attention.projection_layer."),
        (_LAYER + r"\.attn\.([qk]_norm)\.", r"\1.attention.\2."),
        # upstream's SAM 2: an old transformers would have rewritten "gamma"
        (r"^(grounding_encoder\..*)\.g_weight$", r"\1.gamma"),
    )
]
_STACKED = re.compile(_LAYER + r"\.attn\.qkv\.(weight|bias)$")
_ADAPTER = re.compile(r"^(.*)\.lora_([AB])(?:\.default)?\.weight$")


@dataclass(frozen=True)
class Placement:
    """Where a stored tensor belongs: its `part`-th of `parts` equal pieces along dimension 0 is our tensor `name`."""

    name: str
    part: int = 0
    parts: int = 1


def placements(key: str) -> list[Placement]:
    """Our tensors in the stored tensor `key`: one, or three for upstream's stacked query, key and value."""
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    stacked = _STACKED.match(key)
    if not stacked:
        return [Placement(key)]
    layer, kind = stacked.groups()
    return [Placement(f"{layer}.attention.{name}_proj.{kind}", part, 3) for part, name in enumerate("qkv")]


def adapter_target(key: str) -> tuple[str, str] | None:
    """(our name of the weight that is adapted, "A" or "B") for a LoRA tensor, None for any other."""
    match = _ADAPTER.match(key)
    return (placements(f"{match[1]}.weight")[0].name, match[2]) if match else None


def module_of(name: str) -> str:
    """The part of the model that a tensor is reported under, one of `MODULES`, or "other" for names we do not know."""
    if name.startswith(f"{SAM2_PREFIX}sam_mask_decoder."):
        return "mask_decoder"
    first = name.partition(".")[0]
    return first if first in MODULES else "other"
