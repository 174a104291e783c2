"""What a verb takes, for people: its keys with their defaults and meaning, as `--help` prints them."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sa2va_ray.config_keys import group_of, list_fields, union_members

_WIDTH = 110


def usage(verb: str, summary: str, examples: Sequence[str], config_class: type[BaseModel]) -> str:
    """What the verb does, how it is started, and a paragraph for each of its keys; those of a group stand as
    `group.key`.

    Args:
        examples: arguments of the verb.
    """
    return "\n".join(
        [
            f"usage: sa2va-ray {verb} [CONFIG.yaml ...] [key=value ...]",
            f"       ray job submit --working-dir . -- python -m jobs.{verb} [CONFIG.yaml ...] [key=value ...]",
            "",
            *textwrap.wrap(summary, _WIDTH),
            "",
            *[f"    sa2va-ray {verb} {example}" for example in examples],
            "",
            "Keys, later ones win:",
            *[line for key, field in list_fields(config_class) for line in _paragraph(key, field)],
        ]
    )


def _paragraph(key: str, field: FieldInfo) -> list[str]:
    is_group = group_of(field) is not None
    if is_group and not field.description:
        return []
    return ["", f"  {key}{'' if is_group else _default(field)}", *_wrapped(field.description or "")]


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    shown = " (required)" if field.is_required() else f" = {json.dumps(default, default=str)}"
    return shown + (f"   one of {', '.join(choices)}" if (choices := _choices(field.annotation)) else "")


def _choices(annotation: Any) -> list[str]:
    literals = [each for each in union_members(annotation) if get_origin(each) is Literal]
    return [str(choice) for each in literals for choice in get_args(each)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="      ", subsequent_indent="      ")
