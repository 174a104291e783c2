"""config.json as upstream's code reads it (docs/en/model_spec.md section 1.8); `loading.source_folder` reads it."""

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sa2va_ray.config import UserError
from sa2va_ray.models.sa2va.configuration_sa2va import HIERA_LARGE, Sa2VAConfig
from sa2va_ray.telemetry import LOGGER

_TILING = {"min_dynamic_patch": 1, "max_dynamic_patch": 12, "use_thumbnail": True}
_TILE_SIZE = 448
_CODE = {
    "AutoConfig": "configuration_sa2va_chat.Sa2VAChatConfig",
    "AutoModel": "modeling_sa2va_chat.Sa2VAChatModel",
    "AutoModelForCausalLM": "modeling_sa2va_chat.Sa2VAChatModel",
}
_VISION = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
    "norm_type",
    "initializer_range",
    "attention_dropout",
)


def check_fits_upstream(config: Sa2VAConfig) -> None:
    """Raises `UserError` for a model that upstream's code would feed otherwise than it was trained."""
    wrong = {key: getattr(config, key) for key, theirs in _TILING.items() if getattr(config, key) != theirs}
    if wrong:
        raise UserError(
            f"This model cannot have layout=upstream: it was trained with {wrong}, and upstream's code always uses "
            f"{ {key: _TILING[key] for key in wrong} }. Export it with layout=own."
        )
    if config.tile_size != _TILE_SIZE or config.grounding_config != HIERA_LARGE:
        LOGGER.warning(
            "upstream's code has tiles of %d px and SAM 2 hiera-large built in; this model has %d px and a SAM 2 for "
            "%d px, so that code needs changes to run it",
            _TILE_SIZE,
            config.tile_size,
            config.grounding_size,
        )


def upstream_config(config: Sa2VAConfig) -> dict[str, Any]:
    """The sizes of SAM 2 are added where it is not hiera-large, for our own loader."""
    values = {
        "architectures": ["Sa2VAChatModel"],
        "auto_map": _CODE,
        "model_type": "sa2va_chat",
        "template": config.template,
        "torch_dtype": "bfloat16",
        "hidden_size": config.hidden_size,
        "force_image_size": config.tile_size,
        "downsample_ratio": config.downsample_ratio,
        "dynamic_image_size": True,
        **_TILING,
        "ps_version": "v2",
        "select_layer": -1,
        "pad2square": False,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "tie_word_embeddings": False,
        "vision_config": _vision(config),
        "llm_config": _language(config),
    }
    return values if config.grounding_config == HIERA_LARGE else {**values, "grounding_config": config.grounding_config}


def _vision(config: Sa2VAConfig) -> dict[str, Any]:
    vision = config.vision_config
    patch_size = vision.patch_size
    return {
        "architectures": ["InternVisionModel"],  # without it upstream takes another encoder
        "model_type": "intern_vit_6b",
        **{key: getattr(vision, key) for key in _VISION},
        "image_size": config.tile_size,
        "patch_size": patch_size if isinstance(patch_size, int) else patch_size[0],
        "qkv_bias": vision.attention_bias,
        "qk_normalization": vision.use_qk_norm,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
    }


def _language(config: Sa2VAConfig) -> dict[str, Any]:
    """Rotary settings under the names of transformers 4, which version 5 reads too."""
    values = config.llm_config.to_diff_dict()
    values = {key: value for key, value in values.items() if key not in ("dtype", "transformers_version")}
    rope = dict(values.pop("rope_parameters", None) or config.llm_config.rope_parameters)
    theta = rope.pop("rope_theta")
    scaled = rope.get("rope_type", "default") != "default"
    model_type = config.llm_config.model_type
    return {
        **values,
        "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]],
        "model_type": model_type,
        "vocab_size": config.llm_config.vocab_size,
        "tie_word_embeddings": False,
        "rope_theta": theta,
        "rope_scaling": {**rope, "type": rope["rope_type"]} if scaled else None,
    }
