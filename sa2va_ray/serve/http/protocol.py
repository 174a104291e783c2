"""What goes over the wire: the options of a request, replies, and how they are read and made."""

import base64
from collections import Counter
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.http.encode.polygons import to_png, to_polygons, to_probability_png, to_rle
from sa2va_ray.serve.http.read.strict_json import parse_json
from sa2va_ray.serve.messages import Finding
from sa2va_ray.serve.problems import Problem

MAX_PROMPT_CHARACTERS = 2000
_MAX_PROBLEMS, _MAX_NAME_CHARACTERS = 5, 100  # that are told of one request
Output = Literal["rle", "polygons", "png", "probability"]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is asked for, not true or false")
    return value


class SegmentOptions(BaseModel):
    """What is asked of an image. In JSON beside `image` or `uri`, in a form as fields beside `file`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[list[Prompt], Field(min_length=1, fail_fast=True)] | None = None
    """Several questions share one image encoding; in JSON one may be given as a string."""
    model: Annotated[str | None, Field(min_length=1)] = None
    threshold: Annotated[float | None, Field(ge=0, le=1), BeforeValidator(_no_bool)] = None
    cleanup: CleanupConfig | None = None
    """In a form as JSON text."""
    output: Output = "rle"


class Mask(BaseModel):
    """One mask, at the image's own size, in the form that was asked for."""

    area_fraction: float
    """Share of the image's pixels, in [0, 1]."""
    rle: dict[str, Any] | None = None
    """COCO run lengths: `{"size": [height, width], "counts": str}`."""
    polygons: dict[str, Any] | None = None
    """GeoJSON's MultiPolygon in pixels, holes kept; filled in, it is the mask again."""
    png: str | None = None
    """Base64 of an 8-bit PNG, 255 in the mask."""
    probability: str | None = None
    """Base64 of a 16-bit PNG: the probability times 65535, rounded."""


class Answer(BaseModel):
    """To one prompt."""

    prompt: str
    text: str
    """What the model said, with its special tokens."""
    score: float
    """The model's own estimate of the masks' IoU, in [0, 1]."""
    area_fraction: float
    """Of all masks together."""
    mean_confidence: float
    """Mean probability of the pixels in the masks."""
    masks: list[Mask]
    """One for each [SEG] in the text."""


class AnsweringModel(BaseModel):
    """Which model answered."""

    name: str
    """Under which it is served."""
    sha256: str
    threshold: float
    """Its own, calibrated where it has been: used where a request names none."""
    cleanup: CleanupConfig
    """Its own."""


class ModelInfo(AnsweringModel):
    """A model that is served."""

    default_prompt: str
    limits: LimitsConfig


class ModelList(BaseModel):
    models: list[ModelInfo]


class SegmentReply(BaseModel):
    """Reply of `POST /v1/segment`."""

    request_id: str
    model: AnsweringModel
    height: int
    width: int
    threshold: float
    """That these masks were made with."""
    cleanup: CleanupConfig
    answers: list[Answer]
    """In the order of the prompts."""
    timing_ms: dict[str, float]
    """By stage."""


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
        raise _wrong_field("; ".join(map(_says, error.errors(include_input=False, include_url=False)))) from None


def _check_names(fields: dict[str, Any], model: type[BaseModel], parent: str = "") -> None:
    """Before pydantic, which makes an error of a kilobyte for each of a million unknown names."""
    unknown = [name for name in fields if name not in model.model_fields][:_MAX_PROBLEMS]
    if unknown:
        raise _wrong_field(
            "; ".join(f"{parent}{name[:_MAX_NAME_CHARACTERS]}: Extra inputs are not permitted" for name in unknown)
        )


def form_options(items: list[tuple[str, str]]) -> SegmentOptions:
    """Of the fields of a form, of which `prompt` may come several times and `cleanup` is JSON text.

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
            fields["cleanup"] = parse_json(fields["cleanup"])
        except ValueError as error:
            cure = 'Send {"min_component_px": 20}, say.'
            raise Problem(422, "Wrong field", f"cleanup: Not JSON: {error}", cure) from None
    return parse_options(fields)


def _says(error: ErrorDetails) -> str:
    """Field and fault, without the value."""
    return f"{'.'.join(map(str, error['loc']))[:_MAX_NAME_CHARACTERS]}: {error['msg']}"


def _wrong_field(problems: str) -> Problem:
    valid = ", ".join(SegmentOptions.model_fields)
    return Problem(422, "Wrong field", problems, f"Fields beside the image are: {valid}.")


def decode_base64(text: Any) -> bytes:
    """
    Raises:
        Problem: no text, or not base64.
    """
    if not isinstance(text, str):
        raise Problem(422, "No image", "The JSON body has no text field 'image'.", "Send the image there, as base64.")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Problem(422, "Not base64", "The field 'image' is not base64.", "Encode the file's bytes.") from None


def to_answer(prompt: str, finding: Finding, output: Output) -> Answer:
    """With its masks in the form that was asked for."""
    return Answer(
        prompt=prompt,
        text=finding.text,
        score=finding.score,
        area_fraction=finding.area_fraction,
        mean_confidence=finding.mean_confidence,
        masks=_to_masks(finding, output),
    )


def _to_masks(finding: Finding, output: Output) -> list[Mask]:
    masks = finding.masks()
    areas = masks.mean(axis=(1, 2)).tolist()
    if output == "probability":
        assert finding.probabilities is not None, "Models.ask wants them for this output"
        pictures = map(to_probability_png, finding.probabilities)
        return [Mask(area_fraction=area, probability=_base64(each)) for area, each in zip(areas, pictures, strict=True)]
    return [_to_mask(*each, output) for each in zip(masks, areas, strict=True)]


def _to_mask(mask: np.ndarray, area: float, output: Output) -> Mask:
    if output == "rle":
        return Mask(area_fraction=area, rle=to_rle(mask))
    if output == "polygons":
        return Mask(area_fraction=area, polygons=to_polygons(mask))
    return Mask(area_fraction=area, png=_base64(to_png(mask)))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
