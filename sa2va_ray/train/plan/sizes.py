"""What the memory plan needs to know of a model, found without its weights: config files, and the model on torch's meta
device."""

import warnings
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from torch import nn

from sa2va_ray.models.build import read_architecture
from sa2va_ray.models.config import ModelConfig, TrainableConfig
from sa2va_ray.models.loading.place import build_empty_model
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.models.parts import PLAN_LABELS, plan_label
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor


@dataclass(frozen=True)
class ParameterGroup:
    name: str
    num_parameters: int
    num_trained: int


@dataclass(frozen=True)
class ModelSizes:
    """Attributes:
    groups: all parameters, adapters included; empty groups are left out.
    dtype: of all parameters.
    largest_module: most parameters that one module holds itself, so that ZeRO-3 gathers them together.
    processor: with the run's tokenizer, template and tiling.
    """

    groups: tuple[ParameterGroup, ...]
    dtype: torch.dtype
    largest_module: int
    processor: Sa2VAProcessor
    trainable: TrainableConfig

    @property
    def architecture(self) -> Sa2VAConfig:
        return self.processor.config

    @property
    def num_parameters(self) -> int:
        return sum(group.num_parameters for group in self.groups)

    @property
    def num_trained(self) -> int:
        return sum(group.num_trained for group in self.groups)


def read_model_sizes(config: ModelConfig, dtype: torch.dtype) -> ModelSizes:
    """Builds the model on the meta device and counts its parameters. Takes seconds for any size; of a base in object
    storage only the small files are fetched.

    Raises:
        UserError: the base is no model folder, or of another family.
    """
    architecture, tokenizer = read_architecture(config)
    model, processor = build_empty_model(architecture), Sa2VAProcessor(architecture, tokenizer)
    with init_empty_weights(include_buffers=False), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 calls a name that transformers 5.23 deprecates
        make_trainable(model, processor, config.trainable)
    return ModelSizes(
        groups=count_groups(model),
        dtype=dtype,
        largest_module=max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()),
        processor=processor,
        trainable=config.trainable,
    )


def count_groups(model: nn.Module) -> tuple[ParameterGroup, ...]:
    """Parameters and trained parameters of a model that `make_trainable` has seen, by the labels of a plan."""
    counts = {label: [0, 0] for label in PLAN_LABELS}
    for name, parameter in model.named_parameters():
        count = counts[plan_label(name)]
        count[0] += parameter.numel()
        count[1] += parameter.numel() if parameter.requires_grad else 0
    return tuple(ParameterGroup(name, *numbers) for name, numbers in counts.items() if numbers[0])
