"""Each number of a config has an upper bound, or a reason to have none."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import sa2va_ray
from sa2va_ray.config import Config

_OF_THE_CLUSTER = "what the cluster has not is refused with the numbers"
_ALL_OR_NEVER = "a number that is too large means all, always or never"
WITHOUT = {
    "num_workers": _OF_THE_CLUSTER,
    "cpus_per_worker": _OF_THE_CLUSTER,
    "num_actors": _OF_THE_CLUSTER,
    "cpus_per_actor": _OF_THE_CLUSTER,
    "NnunetTrainingConfig.num_cpus": _OF_THE_CLUSTER,
    "PipelineConfig.actors_per_rank": _OF_THE_CLUSTER,
    "PipelineConfig.max_bad_samples": _ALL_OR_NEVER,
    "TrainConfig.log_every_steps": _ALL_OR_NEVER,
    "TrainConfig.save_every_steps": _ALL_OR_NEVER,
    "TrainConfig.keep_checkpoints": _ALL_OR_NEVER,
    "TrainConfig.keep_best": _ALL_OR_NEVER,
    "TrainConfig.max_failures": _ALL_OR_NEVER,
    "TrainConfig.max_skipped_samples": _ALL_OR_NEVER,
    "ValidationConfig.every_steps": _ALL_OR_NEVER,
    "OptimConfig.max_grad_norm": _ALL_OR_NEVER,
    "TrainConfig.min_workers": "not above num_workers",
    "TrainConfig.micro_batch_size": "a validator of its own",
    "SplitConfig.fold": "below num_folds",
    "ExportConfig.which": "a step that was not saved is refused",
    "PrepareConfig.classes": "a mask has the value, or not",
}
"""Field, of any class or of one -> why it needs no bound."""
OF_EXTRAS = (".models.baselines.nnunet",)
"""Modules that import what not everybody installs."""
OURS = ("NnunetModel", "FittedFilter", "TrainState")
"""Read from an artefact's own files, which are checked by their hashes."""


def classes(base: type) -> Iterator[type[BaseModel]]:
    for each in base.__subclasses__():
        yield each
        yield from classes(each)


def has_bound(metadata: Any) -> bool:
    return any(
        isinstance(each, annotated_types.Lt | annotated_types.Le | annotated_types.Interval) for each in metadata
    )


def open_numbers(annotation: Any, bounded: bool) -> bool:
    """Whether a type has a number without an upper bound."""
    if annotation in (int, float):
        return not bounded
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        metadata = [more for each in metadata for more in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return open_numbers(inner, bounded or has_bound(metadata))
    return any(open_numbers(each, bounded) for each in get_args(annotation))


def test_each_number_has_an_upper_bound():
    for module in pkgutil.walk_packages(sa2va_ray.__path__, "sa2va_ray."):
        if not module.name.endswith((".__main__", *OF_EXTRAS)):
            importlib.import_module(module.name)
    found = {
        (each.__name__, name)
        for each in classes(Config)
        if each.__module__.startswith("sa2va_ray.") and each.__name__ not in OURS
        for name, field in each.model_fields.items()
        if open_numbers(field.annotation, has_bound(field.metadata))
    }
    assert ("TrainConfig", "num_workers") in found
    assert [f"{name}.{key}" for name, key in sorted(found) if not {key, f"{name}.{key}"} & WITHOUT.keys()] == []
