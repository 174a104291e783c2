"""Reading a request's body: from bytes to encoded images and options, within limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.fetch import UriPolicy, fetch
from sa2va_ray.serve.form import read_form
from sa2va_ray.serve.problems import Problem
from sa2va_ray.serve.protocol import SegmentOptions, decode_base64, form_options, parse_options
from sa2va_ray.serve.strict_json import parse_json

_FORM, _JSON = "multipart/form-data", "application/json"


async def read_images(
    request: Request, limits: LimitsConfig, uris: UriPolicy, several: bool
) -> tuple[list[bytes], SegmentOptions]:
    """The encoded images and the options of a multipart form or a JSON body.

    Args:
        several: `/v1/segment/batch`: any number of `file` fields, or `images`; else exactly one image.

    Raises:
        Problem: another content type, a body that is too large, too slow or cut off, no image, a wrong field.
    """
    _check_headers(request, limits)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    async with _in_time(limits):
        if content_type == _FORM:
            return await _read_form(request, limits, several)
        if content_type == _JSON:
            return await _read_json(request, limits, uris, several)
    raise Problem(
        415,
        "Unsupported content type",
        f"The content type is '{content_type[:100]}'.",
        f"Send {_FORM} with the field 'file', or {_JSON} with the image as base64 in 'image'.",
    )


async def read_json(request: Request, limits: LimitsConfig) -> dict[str, Any]:
    """A JSON object, within the same limits and with the same problems."""
    _check_headers(request, limits)
    async with _in_time(limits):
        return await _json_object(request)


@asynccontextmanager
async def _in_time(limits: LimitsConfig) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.read_timeout_s):
            yield
    except TimeoutError:
        raise Problem(
            408,
            "Too slow",
            f"The request's body has not arrived within {limits.read_timeout_s:g} s.",
            "Send a smaller image, or over a faster line.",
        ) from None
    except ClientDisconnect:
        raise Problem(400, "Cut off", "The request's body ended early.", "Send it again.") from None


def _check_headers(request: Request, limits: LimitsConfig) -> None:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "Compressed body", "The body is compressed.", "Send it as it is: images are compressed.")
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise Problem(411, "Length required", "The request has no Content-Length.", "Send one; chunks are not taken.")
    if int(length) > limits.max_upload_bytes:
        raise Problem(
            413,
            "Request too large",
            f"The body has {int(length):,} bytes, the limit is {limits.max_upload_bytes:,}.",
            "Send a smaller image, or one that is better compressed.",
        )


async def _read_form(request: Request, limits: LimitsConfig, several: bool) -> tuple[list[bytes], SegmentOptions]:
    images, fields = await read_form(request, limits)
    _check_number(len(images), several, "file")
    return images, form_options(fields)


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        fields = parse_json(await request.body())
    except ValueError as error:
        raise Problem(400, "Not JSON", f"The body is not valid JSON: {error}", "Check it with a JSON parser.") from None
    if not isinstance(fields, dict):
        raise Problem(422, "Not an object", "The JSON body is no object.", 'Send {"image": "<base64>", ...}.')
    return fields


async def _read_json(
    request: Request, limits: LimitsConfig, uris: UriPolicy, several: bool
) -> tuple[list[bytes], SegmentOptions]:
    fields = await _json_object(request)
    if several:
        images = fields.pop("images", None)
        if not isinstance(images, list):
            raise Problem(422, "No image", "The JSON body has no list 'images'.", "Send a list of base64 texts there.")
        _check_number(len(images), several, "images", limits.max_batch_images)
        return [decode_base64(image) for image in images], parse_options(fields)
    uri = fields.pop("uri", None)
    if uri is not None:
        if "image" in fields or not isinstance(uri, str):
            raise Problem(422, "Wrong field", "Give either 'image' or 'uri', as text.", "Leave one of them out.")
        options = parse_options(fields)
        return [await fetch(uri, uris, limits.max_upload_bytes)], options
    return [decode_base64(fields.pop("image", None))], parse_options(fields)


def _check_number(found: int, several: bool, field: str, most: int | None = None) -> None:
    if found == 0:
        raise Problem(422, "No image", f"The request has no image in '{field}'.", f"Send the image as '{field}'.")
    if found > 1 and not several:
        raise Problem(422, "Several images", f"The form has {found} images.", "Send them to /v1/segment/batch.")
    if most and found > most:
        raise Problem(413, "Too many images", f"The request has {found} images, the limit is {most}.", "Send fewer.")
