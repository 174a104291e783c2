"""What a model folder is, found out by its config.json: our own, an upstream Sa2VA or an InternVL3 base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from sa2va_ray.config import UserError
from sa2va_ray.models.loading.config_file import building, read_config_file
from sa2va_ray.models.loading.quantised import check_config
from sa2va_ray.models.quantisation import QUANTISATION_KEY
from sa2va_ray.models.sa2va.configuration_sa2va import HIERA_LARGE, Sa2VAConfig
from sa2va_ray.models.sa2va.processing_sa2va import (
    IMAGE_END,
    IMAGE_START,
    IMAGE_TOKEN,
    NEW_TOKENS,
    SEG_TOKEN,
    TEMPLATES,
    token_id,
)

# How a folder was saved or is to be run says nothing of what the model is. A dtype of the language model alone would
# make a model of two dtypes.
_NOT_SIZES = ("architectures", "auto_map", "dtype", "torch_dtype", "attn_implementation", "_attn_implementation")
# The only values that the InternVL3 family has, and that the model does (docs/en/model_spec.md section 1.8).
_REQUIRED = {"ps_version": "v2", "select_layer": -1, "pad2square": False, "use_llm_lora": 0, "use_backbone_lora": 0}
_BASE_TEMPLATE = "qwen_chat"
SMALL_FILES = (".json", ".txt", ".model", ".jinja")
"""Suffixes of a model folder's config and tokenizer: all but its weights."""


@dataclass(frozen=True)
class SourceFolder:
    """Attributes:
    kind: `base` has neither SAM 2 nor [SEG] head, and its embeddings have only the first `known_tokens` rows.
    tied: the LM head may be left out of the files, as it is the embedding.
    quantised: its language model has weights of 8 bits.
    """

    kind: Literal["own", "upstream", "base"]
    config: Sa2VAConfig
    tokenizer: PreTrainedTokenizerBase
    known_tokens: int
    tied: bool
    quantised: bool = False


def read_source_folder(
    folder: Path, location: str, grounding_config: dict[str, Any] | None, may_be_quantised: bool = False
) -> SourceFolder:
    """Reads config and tokenizer of a model folder; no weights.

    Args:
        location: the name that messages give it.
        grounding_config: sizes of SAM 2, for folders whose config has none (upstream's own); hiera-large by default.
        may_be_quantised: whether weights of 8 bits that `jobs.export` has made are allowed.

    Raises:
        UserError: not a model folder, or a model of another family.
    """
    values = read_config_file(folder, location)
    check_config(folder, values, location, may_be_quantised)
    if values.get("architectures") == ["Sa2VAModel"]:
        return _read_own(folder, location, grounding_config)
    kind: Literal["upstream", "base"] = "upstream" if values.get("model_type") == "sa2va_chat" else "base"
    llm = values.get("llm_config") or values.get("text_config")
    vision = values.get("vision_config")
    if values.get("model_type") not in ("sa2va_chat", "internvl_chat", "internvl") or not llm or not vision:
        raise UserError(
            f"{location} is a model of type {values.get('model_type')!r}, architecture {values.get('architectures')}. "
            "Sa2VA (InternVL variants), InternVL3 and InternVL3-hf folders can be loaded."
        )
    _check(values, location, vision)
    tokenizer = _read_tokenizer(folder, location)
    known_tokens = len(tokenizer)
    if kind == "base":
        tokenizer.add_tokens(list(NEW_TOKENS), special_tokens=True)
    absent = [t for t in (IMAGE_START, IMAGE_TOKEN, IMAGE_END, *NEW_TOKENS) if t not in tokenizer.get_vocab()]
    if absent:
        raise UserError(f"The tokenizer of {location} lacks {', '.join(absent)}: it is not that of a {kind} model.")
    with building(location):
        config = Sa2VAConfig(
            vision_config=_vision_config(vision),
            llm_config={
                **_sizes(llm),
                "model_type": _language_model_type(llm, location),
                "tie_word_embeddings": False,
                "vocab_size": llm["vocab_size"] if kind == "upstream" else len(tokenizer),
            },
            grounding_config=_checked_grounding_config(grounding_config or values.get("grounding_config")),
            # Tiling is left at its defaults, 1 to 12 tiles and a thumbnail: upstream ignores what its configs say.
            template=values["template"].replace("-", "_") if kind == "upstream" else _BASE_TEMPLATE,
            downsample_ratio=values.get("downsample_ratio", 0.5),
            seg_token_id=token_id(tokenizer, SEG_TOKEN),
            image_token_id=token_id(tokenizer, IMAGE_TOKEN),
        )
    # transformers' default for Qwen2 is untied, for "-hf" folders as a whole it is tied.
    tied = bool(llm.get("tie_word_embeddings", False) or values.get("tie_word_embeddings", False))
    return SourceFolder(kind, config, tokenizer, known_tokens, tied)


def _read_own(folder: Path, location: str, grounding_config: dict[str, Any] | None) -> SourceFolder:
    if grounding_config is not None:
        raise UserError(f"{location} was written by sa2va_ray and has the sizes of its SAM 2: leave grounding_config.")
    with building(location):
        config = Sa2VAConfig.from_pretrained(folder)
    config.llm_config.dtype = None
    tokenizer = _read_tokenizer(folder, location)
    quantised = hasattr(config, QUANTISATION_KEY)
    return SourceFolder("own", config, tokenizer, len(tokenizer), tied=False, quantised=quantised)


def _read_tokenizer(folder: Path, location: str) -> PreTrainedTokenizerBase:
    try:
        # An empty config keeps transformers from reading config.json, whose type and remote code it does not know.
        return AutoTokenizer.from_pretrained(folder, config=PreTrainedConfig(), trust_remote_code=False)
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"{location} has no tokenizer that can be read ({type(error).__name__}: {said}). Its tokenizer files are "
            "missing, cut off or of another model: fetch them again."
        ) from error


def _check(values: dict[str, Any], location: str, vision: dict[str, Any]) -> None:
    wrong = {k: values[k] for k, right in _REQUIRED.items() if values.get(k, right) != right}
    if values["model_type"] != "internvl" and values.get("ps_version") != "v2":
        wrong["ps_version"] = values.get("ps_version", "v1, by upstream's default")
    if values["model_type"] == "sa2va_chat" and (values.get("template") or "").replace("-", "_") not in TEMPLATES:
        wrong["template"] = values.get("template")
    side, own_side = values.get("force_image_size"), vision.get("image_size")
    if side and own_side and side != _side(own_side):
        wrong["force_image_size"] = side
    if wrong:
        raise UserError(
            f"{location} has settings in its config.json that are not supported: {wrong}. Supported are {_REQUIRED}, "
            f"templates {', '.join(TEMPLATES)}, and tiles of the vision encoder's own image_size."
        )


def _vision_config(vision: dict[str, Any]) -> dict[str, Any]:
    if vision.get("model_type") == "internvl_vision":
        return _sizes(vision)
    same = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "image_size",
        "patch_size",
        "num_channels",
        "hidden_act",
        "layer_norm_eps",
        "norm_type",
        "initializer_range",
    )
    return {
        **{key: vision[key] for key in same if key in vision},
        "attention_bias": vision["qkv_bias"],
        "use_qk_norm": vision.get("qk_normalization", False),
    }


def _language_model_type(llm: dict[str, Any], location: str) -> str:
    model_type = llm.get("model_type") or ("qwen2" if llm.get("architectures") == ["Qwen2ForCausalLM"] else "")
    if model_type not in CONFIG_MAPPING_NAMES:
        raise UserError(
            f"{location} has a language model of type {model_type!r}, architecture {llm.get('architectures')}, which "
            "transformers does not have. InternLM2 variants cannot be loaded; those on Qwen2.5 can."
        )
    return model_type


def _checked_grounding_config(grounding_config: dict[str, Any] | None) -> dict[str, Any]:
    config = HIERA_LARGE if grounding_config is None else grounding_config
    if absent := sorted(HIERA_LARGE.keys() - config.keys()):
        raise UserError(f"grounding_config lacks {', '.join(absent)}; see HIERA_LARGE in configuration_sa2va.py.")
    return config


def _sizes(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _NOT_SIZES}


def _side(size: int | list[int]) -> int:
    return size if isinstance(size, int) else size[0]
