"""Reading the options of a request: from a form or a JSON object to `SegmentOptions`."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.serve.http.protocol import SegmentOptions
from sa2va_ray.serve.http.read.strict_base64 import decode_strict_base64
from sa2va_ray.serve.http.read.strict_json import parse_strict_json
from sa2va_ray.serve.problems import Problem

_MAX_PROBLEMS, _MAX_NAME_CHARACTERS = 5, 100  # that are told of one request


def parse_options(fields: dict[str, Any]) -> SegmentOptions:
    """
    Raises:
        Problem: an unknown or wrong field.
    """
    _check_names(fields, SegmentOptions)
    if isinstance(cleanup := fields.get("cleanup"), dict):
        _check_names(cleanup, CleanupConfig, "cleanup.")
    if isinstance(fields.get("prompt"), str):
        fields = {**fields, "prompt": [fields["prompt"]]}
    try:
        return SegmentOptions.model_validate(fields)
    except ValidationError as error:
        raise _wrong_field("; ".join(map(_describe, error.errors(include_input=False, include_url=False)))) from None


def _check_names(fields: dict[str, Any], model: type[BaseModel], parent: str = "") -> None:
    """Before pydantic, which makes an error of a kilobyte for each of a million unknown names."""
    unknown = [name for name in fields if name not in model.model_fields][:_MAX_PROBLEMS]
    if unknown:
        raise _wrong_field(
            "; ".join(f"{parent}{name[:_MAX_NAME_CHARACTERS]}: Extra inputs are not permitted" for name in unknown)
        )


def form_options(items: list[tuple[str, str]]) -> SegmentOptions:
    """The options in the fields of a form, in which `prompt` may come several times and `cleanup` is JSON text.

    Raises:
        Problem: an unknown or wrong field, or another one several times.
    """
    given = Counter(name for name, _ in items if name != "prompt")
    if repeated := [name for name in SegmentOptions.model_fields if given[name] > 1]:
        raise _wrong_field("; ".join(f"{name}: Given {given[name]} times" for name in repeated))
    fields: dict[str, Any] = {name: value for name, value in items if name != "prompt"}
    if prompts := [value for name, value in items if name == "prompt"]:
        fields["prompt"] = prompts
    if "cleanup" in fields:
        try:
            fields["cleanup"] = parse_strict_json(fields["cleanup"])
        except ValueError as error:
            cure = 'Send {"min_component_px": 20}, say.'
            raise Problem(422, "Wrong field", f"cleanup: Not JSON: {error}", cure) from None
    return parse_options(fields)


def _describe(error: Mapping[str, Any]) -> str:
    """Names the field and the fault of one of pydantic's errors, without the value."""
    return f"{'.'.join(map(str, error['loc']))[:_MAX_NAME_CHARACTERS]}: {error['msg']}"


def _wrong_field(problems: str) -> Problem:
    valid = ", ".join(SegmentOptions.model_fields)
    return Problem(422, "Wrong field", f"{problems}.", f"Fields beside the image are: {valid}.")


def decode_base64(text: Any) -> bytes:
    """
    Raises:
        Problem: no text, or not base64.
    """
    if not isinstance(text, str):
        raise Problem(422, "No image", "The JSON body has no text field 'image'.", "Send the image there, as base64.")
    try:
        return decode_strict_base64(text)
    except ValueError:
        raise Problem(422, "Not base64", "The field 'image' is not base64.", "Encode the file's bytes.") from None
