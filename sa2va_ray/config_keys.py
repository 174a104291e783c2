"""The keys of a config class: listed, looked up, and explained where one is wrong."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_SHOWN_CHARACTERS = 300
_LARGEST_SHOWN = 10**_SHOWN_CHARACTERS

NAMES_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "batch_size": "micro_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "accumulative_counts": "global_batch_size",
    "gradient_accumulation_steps": "global_batch_size",
    "epochs": "num_epochs",
    "max_epochs": "num_epochs",
    "num_train_epochs": "num_epochs",
    "max_norm": "optim.max_grad_norm",
    "save_steps": "save_every_steps",
    "save_total_limit": "keep_checkpoints",
    "eval_steps": "validation.every_steps",
    "logging_steps": "log_every_steps",
    "gradient_checkpointing": "activation_checkpointing",
    "lora_r": "model.trainable.lora_rank",
    "r": "model.trainable.lora_rank",
    "model_name_or_path": "model.base.source",
    "pretrained_pth": "model.base.initialise_from",
    "work_dir": "runs_uri",
    "output_dir": "runs_uri",
    "deepspeed": "strategy",
    "bf16": "precision",
    "report_to": "trackers",
}
"""What XTuner and the Hugging Face trainer call a key of ours: users of either have these names in their fingers."""


def list_fields(config_class: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its field, a group before its own keys, which stand as `group.key`."""
    for name, field in config_class.model_fields.items():
        yield f"{prefix}{name}", field
        if group := group_of(field):
            yield from list_fields(group, f"{prefix}{name}.")


def list_keys(config_class: type[BaseModel]) -> list[str]:
    """The keys that take a value; those of a group as `group.key`."""
    return [key for key, field in list_fields(config_class) if not group_of(field)]


def group_of(field: FieldInfo) -> type[BaseModel] | None:
    """The config class that a field holds, alone or as one of a union."""
    return next(filter(_is_group, union_members(field.annotation)), None)


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def kinds_of(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    return {annotation}.union(*map(kinds_of, get_args(annotation)))


def did_you_mean(word: str, names: Mapping[str, str]) -> str:
    """A question with the nearest of the names, to follow a message; empty where none is near.

    Args:
        names: as a person may think of them, with what is shown of each.
    """
    by_lower = {name.lower(): shown for name, shown in names.items()}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[found[0]]}?" if found else ""


def explain(config_class: type[BaseModel], problem: Mapping[str, Any], renamed: Mapping[str, str]) -> str:
    """What one of pydantic's errors says, for people.

    Args:
        renamed: old names of keys, with those of today.
    """
    location = [str(part) for part in problem["loc"]]
    key, given = ".".join(location), problem["input"]
    if problem["type"] == "extra_forbidden":
        return _explain_unknown(config_class, location, renamed)
    if problem["type"] == "missing":
        return f"{key} is required: set it in the YAML file or as {key}=..."
    if problem["type"] == "model_type":
        owner = _owner(config_class, location)
        return f"{key or owner.__name__} is a group of keys, {_listed(owner)}, and no value {_shortened(given)}"
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, Mapping) else f" (got {_shortened(given)})"
    more = _meaning(config_class, location) if problem["type"] == "string_pattern_mismatch" else ""
    if problem["type"] == "string_type" and isinstance(given, int | float):  # a bool, too
        more = f". In quotes it is a text: '{key}=\"...\"'"
    return f"{key}: {message}{shown}{more}" if key else f"{message}{shown}"


def _explain_unknown(config_class: type[BaseModel], location: Sequence[str], renamed: Mapping[str, str]) -> str:
    key, owner = ".".join(location), _owner(config_class, location[:-1])
    if (new := renamed.get(location[-1])) in owner.model_fields:
        return f"unknown key {key}; it is called {'.'.join([*location[:-1], new])} now"
    keys = list_keys(config_class)
    anywhere = {key.rpartition(".")[2]: key for key in keys}
    beside = {name: ".".join([*location[:-1], name]) for name in owner.model_fields}
    habits = {habit: key for habit, key in NAMES_ELSEWHERE.items() if key in keys}
    near = did_you_mean(location[-1], habits | anywhere | beside)
    return f"unknown key {key}; valid here: {_listed(owner)}{near and f'.{near}'}"


def _meaning(config_class: type[BaseModel], location: Sequence[str]) -> str:
    """Of a key, since a pattern is a riddle to most."""
    field = _owner(config_class, location[:-1]).model_fields.get(location[-1])
    return f". It is: {' '.join(field.description.split())}" if field and field.description else ""


def _owner(config_class: type[BaseModel], parents: Sequence[str]) -> type[BaseModel]:
    """The config class that holds the key below `parents`."""
    for parent in parents:
        field = config_class.model_fields.get(parent)
        kinds = kinds_of(field.annotation) if field else set()  # of `dict[str, Group]`, whose keys have no field, too
        config_class = next(filter(_is_group, kinds), config_class)
    return config_class


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _listed(config_class: type[BaseModel]) -> str:
    return ", ".join(sorted(config_class.model_fields))


def _shortened(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, int) and abs(value) > _LARGEST_SHOWN:
        return f"a number of more than {_SHOWN_CHARACTERS} digits"
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]} ..."
