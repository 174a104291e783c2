"""Base of every config, and the way from a command line to it.

A verb takes `[config.yaml ...] [key=value ...]`: the YAML files are laid over each other, then the overrides
(`optim.lr=3e-4` sets a nested key), and the result is checked against the verb's config class before anything starts.
"""

import os.path
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from sa2va_ray.config_keys import did_you_mean, explain, kinds_of, list_keys

_RENAMED = {"data": "data_uri", "images": "source", "compile_frozen": "compile_layers"}
"""Keys that have another name now; the error about the old one gives the new one."""


class UserError(Exception):
    """A mistake that the user can mend. The message gives the value that was wrong, the likely cause and the cure."""

    exit_status = 2


class Config(BaseModel):
    """Frozen; an unknown key is an error. The docstring under a field gives its meaning and unit."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `true` and `yes` are 1 to Python."""
        kinds = kinds_of(cls.model_fields[info.field_name or ""].annotation)
        if kinds & {int, float} and bool not in kinds and _holds_bool(value):
            raise ValueError("true and false, which YAML also reads from yes, no, on and off, are no numbers")
        return value

    @classmethod
    def load(cls, arguments: Sequence[str]) -> Self:
        """Builds the config from command-line arguments: YAML files and `a.b=c` overrides, later ones win.

        Raises:
            UserError: a file that is missing or is no YAML mapping, what is no YAML or has a key twice, an unknown key
                (the valid ones are listed), a value of the wrong type.
        """
        values: dict[str, Any] = {}
        for argument in arguments:
            if "=" in argument and not os.path.isfile(argument):
                key, _, text = argument.partition("=")
                _set(values, key, _parse_override(key, text))
            else:
                _merge(values, _read_yaml(Path(argument), list_keys(cls)))
        return cls.parse(values)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Like `model_validate`, with errors for people: one line per wrong key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [explain(cls, problem, _RENAMED) for problem in error.errors()]
            raise UserError(f"{cls.__name__} has {len(lines)} wrong value(s):\n  " + "\n  ".join(lines)) from None

    def check_inputs(self) -> None:
        """Looks, where a config says how, whether what the verb reads is there: in a second, before the libraries that
        do its work are loaded.

        Raises:
            UserError: it is not.
        """

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Of random numbers: what numpy and torch both take."""
ALWAYS = 10**9
"""The bound of a number that means all, always or never where it is large."""
MaxPixels = Annotated[int, Field(gt=0, le=2**30)]
"""Of an image, height times width; OpenCV decodes none that is larger."""
LARGEST_IMAGE_PX = 8192 * 8192
"""Default of the above, the same at each stage: what was trained on can be predicted, drawn and asked about."""


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a stored config under today's names of its keys, so that what an older version began goes on."""
    return {_RENAMED.get(key, key): value for key, value in values.items()}


_MOST_OF_A_NAME = 200  # characters, in a message


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML would take the last in silence; and leaves `010` and
    `1:30`, which are 8 and 90 to YAML 1.1, as the texts that they are: a number of a config is then the decimal one,
    or an error. So are dates left, of which no key is one: a run may be called by its day."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(
                problem=f"the key {', '.join(twice)} stands there twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


_INT = r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"
_FLOAT = r"([-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
_NUMBERS = {"tag:yaml.org,2002:int": _INT, "tag:yaml.org,2002:float": _FLOAT}
_NOT_AS_YAML = {*_NUMBERS, "tag:yaml.org,2002:timestamp"}
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in _NOT_AS_YAML]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+.0123456789"))

# What PyYAML's constructors raise for `!!int x`, `!!bool x`, a date of month 13 and the like, besides its own errors.
_YAML_ERRORS = (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, RecursionError)


def _parse_yaml(text: str, what: str, cure: str) -> Any:
    """Reads YAML. An error tells the place of the fault, and repeats nothing of the text."""
    try:
        return _unshared(yaml.load(text, _Loader))
    except _YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise UserError(f"{what} is not YAML{place}: {problem}. {cure}") from None


def _unshared(value: Any) -> Any:
    """A copy in which an alias (`*name`) stands for values of its own: an override of one place leaves the other."""
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def _parse_override(key: str, text: str) -> Any:
    """A text without quotes is taken as it stands: after a blank, # begins a comment in a file only."""
    cure = f"Put a text with signs that mean something in YAML into quotes: '{key}=\"...\"'."
    value = _parse_yaml(text, f"The value of {key}=", cure)
    return text.strip() if isinstance(value, str) and text.strip()[:1] not in tuple("'\"|>!&*") else value


def _read_yaml(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """
    Args:
        keys: that the command takes: what is no file may be one of them.
    """
    if not os.path.isfile(path):  # False, too, for what is too long for a path; Path.is_file raises
        raise UserError(_explain_no_file(path, keys))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from None
    values = _parse_yaml(text, str(path), "Compare its indents, brackets and quotes with the files in jobs/configs/.")
    if values is None:
        raise UserError(f"{path} is empty: it holds no config keys. See jobs/configs/ for files.")
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {type(values).__name__}, not a YAML mapping of config keys.")
    return values


def _explain_no_file(path: Path, keys: Sequence[str]) -> str:
    name = str(path)[:_MOST_OF_A_NAME]
    if os.path.isdir(path):
        return f"{name} is a folder, no config file. Name a file in it; keys are written key=value."
    files = {each.name: str(each) for folder in (Path("jobs/configs"), path.parent) for each in _yaml_files(folder)}
    near = did_you_mean(path.name, files) or did_you_mean(name, {key: f"{key}=" for key in keys})
    if not os.path.isdir("jobs/configs") and not os.path.isabs(path):
        return (
            f"There is no config file {name} below this folder, which has no jobs/configs/ either: go to the folder of "
            f"the repository, or give the file's whole path. Overrides are written key=value.{near}"
        )
    return f"There is no config file {name}. Overrides are written key=value; see jobs/configs/ for files.{near}"


def _yaml_files(folder: Path) -> list[Path]:
    return list(folder.glob("*.y*ml")) if os.path.isdir(folder) else []


def _set(values: dict[str, Any], dotted_key: str, value: Any) -> None:
    *parents, last = dotted_key.split(".")
    if not all((*parents, last)):
        raise UserError(
            f"{dotted_key[:_MOST_OF_A_NAME]}= names no key: overrides are written key=value, group.key=value."
        )
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"Cannot set {dotted_key}: {parent} is a single value, not a group of keys.")
    values[last] = value


def _merge(base: dict[str, Any], update: dict[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _holds_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_bool, value)))
