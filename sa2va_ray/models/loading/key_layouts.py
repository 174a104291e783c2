"""From the tensor names that people have to ours (docs/en/model_spec.md sections 1.1 to 1.7). Pure functions on names.

Ours are upstream's five children, with transformers' names inside `vision_model`. One set of rules serves all layouts,
since none of them changes a name that another one means differently: upstream's folder, InternVL3's, its "-hf" twin in
both prefix styles, XTuner's checkpoints with and without adapters, and ours, which comes out as it went in.
"""

import re
from dataclasses import dataclass

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
    )
]
# Upstream's names and ours, read both ways; "#" is a layer's number, and what follows a row's name stays as it is.
# Where ours are several, upstream stacks them along dimension 0.
_LAYERS, _LAYER = "vision_model.encoder.layers.#", "vision_model.encoder.layer.#"
_FUSER = "grounding_encoder.sam2_model.memory_encoder.fuser.layers.#"
_UPSTREAM = (
    ("vision_model.embeddings.class_embedding", ("vision_model.embeddings.cls_token",)),
    ("vision_model.embeddings.position_embedding", ("vision_model.embeddings.position_embeddings",)),
    ("vision_model.embeddings.patch_embedding", ("vision_model.embeddings.patch_embeddings.projection",)),
    (f"{_LAYERS}.ls1", (f"{_LAYER}.lambda_1",)),
    (f"{_LAYERS}.ls2", (f"{_LAYER}.lambda_2",)),
    (f"{_LAYERS}.norm1", (f"{_LAYER}.layernorm_before",)),
    (f"{_LAYERS}.norm2", (f"{_LAYER}.layernorm_after",)),
    (f"{_LAYERS}.attn.qkv", tuple(f"{_LAYER}.attention.{part}_proj" for part in "qkv")),
    (f"{_LAYERS}.attn.proj", (f"{_LAYER}.attention.projection_layer",)),
    (f"{_LAYERS}.attn.q_norm", (f"{_LAYER}.attention.q_norm",)),
    (f"{_LAYERS}.attn.k_norm", (f"{_LAYER}.attention.k_norm",)),
    (_LAYERS, (_LAYER,)),
    (f"{_FUSER}.g_weight", (f"{_FUSER}.gamma",)),  # an old transformers would have rewritten "gamma"
)


def _replacement(row_name: str) -> str:
    return row_name.replace("#", r"\1")


def _pattern(row_name: str) -> re.Pattern[str]:
    return re.compile("^" + re.escape(row_name).replace(r"\#", r"(\d+)") + r"(?=\.|$)")


_FROM_UPSTREAM = [(_pattern(theirs), [_replacement(name) for name in ours]) for theirs, ours in _UPSTREAM]
_TO_UPSTREAM = [
    (_pattern(name), _replacement(theirs), part, len(ours))
    for theirs, ours in _UPSTREAM
    for part, name in enumerate(ours)
]
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
    for theirs, ours in _FROM_UPSTREAM:
        if theirs.match(key):
            return [Placement(theirs.sub(name, key), part, len(ours)) for part, name in enumerate(ours)]
    return [Placement(key)]


def upstream_placement(name: str) -> Placement:
    """The other way: where our tensor `name` is in upstream's files, as the `part`-th of `parts` of their key."""
    for ours, theirs, part, parts in _TO_UPSTREAM:
        if ours.match(name):
            return Placement(ours.sub(theirs, name), part, parts)
    return Placement(name)


def adapter_target(key: str) -> tuple[str, str] | None:
    """(our name of the weight that is adapted, "A" or "B") for a LoRA tensor, None for any other."""
    match = _ADAPTER.match(key)
    return (placements(f"{match[1]}.weight")[0].name, match[2]) if match else None
