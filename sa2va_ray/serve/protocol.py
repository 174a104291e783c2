"""What goes over the wire: requests, replies and problem documents (RFC 9457)."""

import base64
import binascii
import io
from typing import Annotated, Any

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from sa2va_ray.data.masks import mask_to_rle
from sa2va_ray.predict.predictor import Prediction

_MAX_PROMPT_CHARACTERS = 2000
_IMAGE_FORMATS = ("PNG", "JPEG", "TIFF")


class Problem(Exception):
    """A request that cannot be served: becomes an `application/problem+json` reply.

    Args:
        status: HTTP status, 4xx or 503.
        title: the kind of problem, the same words each time.
        detail: what was wrong with this request.
        cure: what to do about it.
    """

    def __init__(self, status: int, title: str, detail: str, cure: str):
        super().__init__(detail)
        self.status, self.title, self.detail, self.cure = status, title, detail, cure

    def response(self) -> JSONResponse:
        body = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "cure": self.cure,
        }
        return JSONResponse(body, status_code=self.status, media_type="application/problem+json")


class SegmentOptions(BaseModel):
    """What is asked of an image. In JSON beside `image`, in a form as fields beside `file`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str | None, Field(min_length=1, max_length=_MAX_PROMPT_CHARACTERS)] = None
    threshold: Annotated[float | None, Field(ge=0, le=1)] = None


class Mask(BaseModel):
    """One mask, at the image's own size."""

    rle: dict[str, Any]
    """COCO run lengths: `{"size": [height, width], "counts": str}`."""
    area_fraction: float
    """Share of the image's pixels, in [0, 1]."""


class ModelInfo(BaseModel):
    """Which model answered."""

    name: str
    sha256: str
    threshold: float
    """Its own threshold, used where a request names none."""


class SegmentReply(BaseModel):
    """Reply of `POST /v1/segment`."""

    request_id: str
    model: ModelInfo
    prompt: str
    text: str
    """What the model said, with its special tokens."""
    height: int
    width: int
    threshold: float
    """That these masks were made with."""
    score: float
    """The model's own estimate of the masks' IoU, in [0, 1]."""
    masks: list[Mask]
    """One for each [SEG] in the text."""
    timing_ms: dict[str, float]
    """By stage."""


async def read_request(request: Request, max_upload_bytes: int) -> tuple[bytes, SegmentOptions]:
    """The encoded image and the options of a multipart form or a JSON body.

    Raises:
        Problem: another content type, a body that is too large, no image, an unknown or wrong field.
    """
    _check_length(request, max_upload_bytes)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        form = dict(await request.form())
        file = form.pop("file", None)
        if not isinstance(file, UploadFile):
            raise Problem(422, "No image", "The form has no file field 'file'.", "Send the image as the field 'file'.")
        return await file.read(), _options(form)
    if content_type == "application/json":
        fields = await _json_object(request)
        return _base64_image(fields.pop("image", None)), _options(fields)
    raise Problem(
        415,
        "Unsupported content type",
        f"The content type is '{content_type}'.",
        "Send multipart/form-data with the field 'file', or application/json with the image as base64 in 'image'.",
    )


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """Encoded image -> (H, W, 3) uint8.

    Raises:
        Problem: not an image, a broken one, or one with more than `max_pixels` pixels (checked before decoding).
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_IMAGE_FORMATS)
    except (OSError, ValueError, Image.DecompressionBombError):
        raise Problem(
            415, "Not an image", "The data sent is no PNG, JPEG or TIFF image.", "Send one of these formats."
        ) from None
    if image.width * image.height > max_pixels:
        raise Problem(
            413,
            "Image too large",
            f"The image has {image.width} x {image.height} pixels, the limit is {max_pixels:,} in all.",
            "Scale it down or cut it into parts.",
        )
    try:
        return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        raise Problem(
            422, "Broken image", "The image ends too early or its data is damaged.", "Send the file again."
        ) from None


def to_masks(prediction: Prediction) -> list[Mask]:
    return [Mask(rle=mask_to_rle(mask), area_fraction=float(mask.mean())) for mask in prediction.masks]


def to_png(mask: np.ndarray) -> bytes:
    """(H, W) bool -> PNG, 255 where the mask is set."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def _check_length(request: Request, max_upload_bytes: int) -> None:
    length = request.headers.get("content-length")
    if length is None or not length.isdigit():
        raise Problem(411, "Length required", "The request has no Content-Length.", "Send one; chunks are not taken.")
    if int(length) > max_upload_bytes:
        raise Problem(
            413,
            "Request too large",
            f"The body has {int(length):,} bytes, the limit is {max_upload_bytes:,}.",
            "Send a smaller image, or one that is better compressed.",
        )


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        fields = await request.json()
    except ValueError:
        raise Problem(400, "Not JSON", "The body is not valid JSON.", "Check it with a JSON parser.") from None
    if not isinstance(fields, dict):
        raise Problem(422, "Not an object", "The JSON body is no object.", 'Send {"image": "<base64>", ...}.')
    return fields


def _base64_image(text: Any) -> bytes:
    if not isinstance(text, str):
        raise Problem(422, "No image", "The JSON body has no text field 'image'.", "Send the image there, as base64.")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Problem(422, "Not base64", "The field 'image' is not base64.", "Encode the file's bytes.") from None


def _options(fields: dict[str, Any]) -> SegmentOptions:
    try:
        return SegmentOptions.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        valid = ", ".join(SegmentOptions.model_fields)
        raise Problem(422, "Wrong field", problems, f"Fields beside the image are: {valid}.") from None
