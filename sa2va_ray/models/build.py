"""ModelConfig -> model and processor."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.models.config import ModelConfig
from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.loading.place import allocate, build_empty_model
from sa2va_ray.models.loading.source_folder import SMALL_FILES, read_source_folder
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import (
    IMAGE_TOKEN,
    SEG_TOKEN,
    Sa2VAProcessor,
    token_id,
)
from sa2va_ray.models.tokenizer import build_tokenizer

_SIZES = signature(Sa2VAConfig.__init__).parameters.keys() - {"self", "kwargs", "seg_token_id", "image_token_id"}
_NO_MODEL = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What transformers, torch and sam2 raise for sizes that do not go together."""
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def build_model(config: ModelConfig, precision: torch.dtype = torch.float32) -> tuple[Sa2VAModel, Sa2VAProcessor]:
    """The model on the CPU, and its processor. What trains is decided by `lora.make_trainable`.

    Raises:
        UserError: the base cannot be loaded.
    """
    if config.base:
        arguments = config.base.model_dump()
        loaded = load_model(arguments.pop("source"), **arguments, dtype=precision, seed=config.init_seed)
        return loaded.model, loaded.processor
    model_config, tokenizer = random_architecture(config.architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.init_seed)
        model = Sa2VAModel(model_config)
    for tensor in model.state_dict(
        keep_vars=True
    ).values():  # not the rotary tables, whose angles bfloat16 would change
        tensor.data = tensor.data.to(precision)
    return model, Sa2VAProcessor(model_config, tokenizer)


def build_unfilled(config: ModelConfig, precision: torch.dtype) -> Sa2VAModel:
    """The model as `build_model` gives it, but with parameters whose values are nobody's: for a process that is sent
    them by another. It takes seconds, reads no weights, and no memory but for addresses.

    Raises:
        UserError: the base is no model folder, or of another family.
    """
    architecture, _ = read_architecture(config)
    with torch.random.fork_rng(devices=[]):
        model = build_empty_model(architecture)
    for name in model.state_dict():
        allocate(model, name, "cpu", precision)
    return model


def read_architecture(config: ModelConfig) -> tuple[Sa2VAConfig, PreTrainedTokenizerBase]:
    """Sizes and tokenizer of a model. Of a base in object storage only the small files are fetched.

    Raises:
        UserError: the base is not there, is no model folder, or is of another family.
    """
    if config.base is None:
        return random_architecture(config.architecture)
    source = config.base.source
    try:
        names = [name for name in storage.list_files(source) if "/" not in name and name.endswith(SMALL_FILES)]
        with storage.local_copy(source, names) as folder:
            found = read_source_folder(folder, source, config.base.grounding_config)
    except UserError as error:  # a recipe has it, so that who reads the message may never have typed it
        raise type(error)(f"model.base.source: {error}") from None
    return found.config, found.tokenizer


def random_architecture(architecture: dict[str, Any] | None) -> tuple[Sa2VAConfig, PreTrainedTokenizerBase]:
    """Sizes and tokenizer of a model with random weights.

    Raises:
        UserError: sizes of which no model can be made.
    """
    tokenizer = build_tokenizer()
    sizes = architecture or {}
    if unknown := sizes.keys() - _SIZES:
        raise UserError(f"unknown key model.architecture.{sorted(unknown)[0]}; valid here: {', '.join(sorted(_SIZES))}")
    try:
        config = Sa2VAConfig(
            **sizes, seg_token_id=token_id(tokenizer, SEG_TOKEN), image_token_id=token_id(tokenizer, IMAGE_TOKEN)
        )
        config.llm_config.vocab_size = len(tokenizer)
        with torch.random.fork_rng(devices=[]):
            build_empty_model(deepcopy(config))
    except _NO_MODEL as error:
        raise UserError(
            f"No model has the sizes in model.architecture: {type(error).__name__}: {str(error)[:300]}. Compare them "
            "with those in jobs/configs/demo.yaml."
        ) from None
    return config, tokenizer


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of a model's tensors, sorted by name (64 hex characters)."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
