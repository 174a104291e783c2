"""Each number of a config has an upper bound, or a reason to have none."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import annotated_types
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import sa2va_ray
from sa2va_ray.config import Config, UserError
from sa2va_ray.train.config import TrainConfig

WITHOUT = {
    "TrainConfig.min_workers": "not above num_workers",
    "TrainConfig.micro_batch_size": "a validator of its own",
    "SplitConfig.fold": "below num_folds",
    "ExportConfig.which": "a step that was not saved is refused",
    "PrepareConfig.classes": "a mask has the value, or not",
}
"""Field -> why it needs no bound."""
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
        f"{each.__name__}.{name}"
        for each in classes(Config)
        if each.__module__.startswith("sa2va_ray.") and each.__name__ not in OURS
        for name, field in each.model_fields.items()
        if open_numbers(field.annotation, has_bound(field.metadata))
    }
    assert found == WITHOUT.keys()


@pytest.mark.parametrize(
    ("key", "smallest", "largest"),
    [
        ("pipeline.actors_per_rank", 1, 2**16),
        ("pipeline.cpus_per_actor", 0.001, 4096),
        ("cpus_per_worker", 0.001, 4096),
        ("keep_checkpoints", 1, 10**9),
    ],
)
def test_numbers_that_ended_in_a_traceback_are_refused(key, smallest, largest):
    """An integer that no float holds; and less than a ten-thousandth of a core, of which Ray knows nothing."""
    run = ["jobs/configs/demo.yaml", "name=n", "data_uri=d", "runs_uri=r"]
    for value in (smallest, largest):
        TrainConfig.load([*run, f"{key}={value}"])
    for value in ("9" * 400, str(smallest / 20)):
        with pytest.raises(UserError, match=re.escape(key)):
            TrainConfig.load([*run, f"{key}={value}"])
