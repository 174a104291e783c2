"""ModelConfig -> model and processor."""

import hashlib
from typing import Any

import torch
from pydantic import Field
from torch import nn

from sa2va_ray.config import Config
from sa2va_ray.models.lora import TrainableConfig
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import IMAGE_TOKEN, SEG_TOKEN, Sa2VAProcessor, token_id
from sa2va_ray.models.tokenizer import build_tokenizer


class ModelConfig(Config):
    """Which Sa2VA is built, and which of its parts train."""

    architecture: dict[str, Any]
    """Arguments of `Sa2VAConfig`: `vision_config`, `llm_config`, `grounding_config` and the rules of tiling."""

    init_seed: int = 0
    """Seed of the random weights."""

    trainable: TrainableConfig = Field(default_factory=TrainableConfig)


def build_model(config: ModelConfig) -> tuple[Sa2VAModel, Sa2VAProcessor]:
    """The model in float32 on the CPU, and its processor. What trains is decided by `lora.make_trainable`."""
    tokenizer = build_tokenizer()
    model_config = Sa2VAConfig(
        **config.architecture,
        seg_token_id=token_id(tokenizer, SEG_TOKEN),
        image_token_id=token_id(tokenizer, IMAGE_TOKEN),
    )
    model_config.llm_config.vocab_size = len(tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(config.init_seed)
        model = Sa2VAModel(model_config)
    return model, Sa2VAProcessor(model_config, tokenizer)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over the names and bytes of a model's tensors, sorted by name (64 hex characters)."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()
