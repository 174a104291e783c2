"""What is read of a model folder's config.json, and the bounds of its numbers: no memory is allocated for others."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from huggingface_hub.errors import StrictDataclassError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from transformers.activations import ACT2FN

from sa2va_ray.config import UserError


def _known_activation(name: str) -> str:
    if name not in ACT2FN:
        raise ValueError(f"transformers has no such activation; it has {', '.join(ACT2FN)}")
    return name


_Count = Annotated[int, Field(ge=1, le=1024)]
_Width = Annotated[int, Field(ge=1, le=2**20)]
_Pixels = Annotated[int, Field(ge=1, le=8192)]
_Side = _Pixels | Annotated[list[_Pixels], Field(min_length=2, max_length=2)]
_Activation = Annotated[str, AfterValidator(_known_activation)]


class _Part(BaseModel):
    """A part of the model. What is not named here is left to transformers."""

    model_config = ConfigDict(strict=True)

    model_type: str | None = None
    hidden_size: _Width | None = None
    intermediate_size: _Width | None = None
    num_hidden_layers: _Count | None = None
    num_attention_heads: _Count | None = None
    hidden_act: _Activation | None = None


class _Vision(_Part):
    image_size: _Side | None = None
    patch_size: _Side | None = None
    num_channels: Literal[3] | None = None
    norm_type: Literal["layer_norm", "rms_norm"] | None = None
    qkv_bias: bool | None = None
    qk_normalization: bool | None = None


class _Language(_Part):
    architectures: list[str] | None = None
    num_key_value_heads: _Count | None = None
    head_dim: _Width | None = None
    vocab_size: _Width | None = None
    max_position_embeddings: Annotated[int, Field(ge=1, le=2**30)] | None = None
    tie_word_embeddings: bool | None = None


class _ConfigFile(BaseModel):
    model_config = ConfigDict(strict=True)

    architectures: list[str] | None = None
    model_type: str | None = None
    vision_config: _Vision | None = None
    llm_config: _Language | None = None
    text_config: _Language | None = None
    template: str | None = None
    downsample_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    force_image_size: _Pixels | None = None
    tie_word_embeddings: bool | None = None


def read_config_file(folder: Path, location: str) -> dict[str, Any]:
    """config.json of a model folder, with all that stands in it.

    Args:
        location: the name that messages give the folder.

    Raises:
        UserError: no config.json, not JSON, or a value that no model of ours can have.
    """
    if not (folder / "config.json").is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        cure = " It is an adapter (PEFT): merge it into its base, and give that." if is_adapter else ""
        raise UserError(f"{location} is not a model folder: it has no config.json.{cure}")
    try:
        values = json.loads((folder / "config.json").read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"config.json of {location} is not JSON: {error}. It may be cut off; fetch it again.") from None
    if not isinstance(values, dict):
        raise UserError(f"config.json of {location} holds {type(values).__name__}, not the settings of a model.")
    try:
        _ConfigFile.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(key) for key in each['loc'])} is {repr(each['input'])[:80]}: {each['msg']}"
            for each in error.errors()
        )
        raise UserError(f"config.json of {location} has values of which no model can be built: {wrong}.") from None
    return values


@contextmanager
def building(location: str) -> Iterator[None]:
    """Goes around what transformers and torch make of config.json alone, where any error is one of its values.

    Raises:
        UserError: in place of theirs, with what they say.
    """
    try:
        yield
    except UserError:
        raise
    except StrictDataclassError as error:
        raise _not_built(location, error) from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _not_built(location, error) from error


def _not_built(location: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:300]
    return UserError(
        f"No model can be built of config.json of {location} ({type(error).__name__}: {said}). It may be that of "
        "another model, or have been edited: fetch it again."
    )
