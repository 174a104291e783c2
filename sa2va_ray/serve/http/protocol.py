"""What goes over the wire: the options of a request, and the replies."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.http.encode.output_forms import DEFAULT_OUTPUT, OUTPUT_FORMS

MAX_PROMPT_CHARACTERS = 2000
Output = Literal[*OUTPUT_FORMS]  # type: ignore[valid-type]
PromptText = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is asked for, not true or false")
    return value


class SegmentOptions(BaseModel):
    """What is asked of an image. In JSON beside `image` or `uri`, in a form as fields beside `file`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[list[PromptText], Field(min_length=1, fail_fast=True)] | None = None
    """Several questions share one image encoding; in JSON one may be given as a string."""
    model: Annotated[str | None, Field(min_length=1)] = None
    threshold: Annotated[float | None, Field(ge=0, le=1), BeforeValidator(_no_bool)] = None
    cleanup: CleanupConfig | None = None
    """A form holds it as JSON text."""
    output: Output = DEFAULT_OUTPUT


_FORM_FIELDS: dict[str, Any] = {name: (form.json_type | None, None) for name, form in OUTPUT_FORMS.items()}
Mask = create_model(
    "Mask",
    __doc__="One mask, at the image's own size, in the form that was asked for.",
    area_fraction=(float, ...),  # share of the image's pixels, in [0, 1]
    **_FORM_FIELDS,
)


class Answer(BaseModel):
    """The answer to one prompt."""

    prompt: str
    text: str
    """What the model said, with its special tokens."""
    score: float
    """The model's own estimate of the masks' IoU, in [0, 1]."""
    area_fraction: float
    """Share of the image's pixels in any of the masks."""
    mean_confidence: float
    """Mean probability of the pixels in the masks."""
    masks: list[Mask]
    """One for each [SEG] in the text."""


class AnsweringModel(BaseModel):
    """Which model answered."""

    name: str
    """Under which it is served."""
    sha256: str
    threshold: float = Field(ge=0, le=1)
    """Its own, calibrated where it has been: used where a request names none."""
    cleanup: CleanupConfig
    """Its own."""


class ModelInfo(AnsweringModel):
    """A model that is served."""

    default_prompt: str
    limits: LimitsConfig
    stored_sha256: str | None = None
    """Of the model that lies at its URI by now, looked at every 10 s. Another one than `sha256` is served by the next
    deployment; null is one that cannot be read."""


class ModelList(BaseModel):
    """Reply of `GET /v1/models`."""

    models: list[ModelInfo]


class SegmentReply(BaseModel):
    """Reply of `POST /v1/segment`."""

    request_id: str
    model: AnsweringModel
    height: int
    width: int
    threshold: float
    """The threshold that these masks were made with."""
    cleanup: CleanupConfig
    answers: list[Answer]
    """One for each prompt, in their order."""
    timing_ms: dict[str, float]
    """Time of each stage."""
