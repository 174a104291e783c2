"""What a job takes, for people: its keys with their defaults and meaning, as `--help` prints them."""

import json
import textwrap
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WIDTH = 110


def usage(config_class: type[BaseModel], job: str, examples: str = "") -> str:
    """How a job is started, `examples`, and a paragraph for each of its keys; those of a group stand as `group.key`.

    Args:
        job: the module of the job, `jobs.train`.
    """
    start = f"usage: python -m {job} [CONFIG.yaml ...] [key=value ...]\n\n{examples.strip()}\n\nKeys, later ones win:"
    return "\n".join([start.replace("\n\n\n\n", "\n\n"), *_keys(config_class, "")])


def _keys(config_class: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in config_class.model_fields.items():
        key = f"{prefix}{name}"
        groups = [each for each in _parts(field.annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
        if not groups or field.description:
            yield f"\n  {key}{'' if groups else _default(field)}"
            yield from _wrapped(field.description or "")
        for group in groups:
            yield from _keys(group, f"{key}.")


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    shown = " (required)" if field.is_required() else f" = {json.dumps(default, default=str)}"
    return shown + (f"   one of {', '.join(choices)}" if (choices := _choices(field.annotation)) else "")


def _choices(annotation: Any) -> list[str]:
    literals = [each for each in _parts(annotation) if get_origin(each) is Literal]
    return [str(choice) for each in literals for choice in get_args(each)]


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="      ", subsequent_indent="      ")
