"""Reading a request's body: from bytes to encoded images and options, within limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.guard.fetch import UriPolicy, fetch
from sa2va_ray.serve.http.image_workers import ImageWorkers
from sa2va_ray.serve.http.protocol import SegmentOptions
from sa2va_ray.serve.http.read.form import read_form
from sa2va_ray.serve.http.read.options import decode_base64, form_options, parse_options
from sa2va_ray.serve.http.read.strict_json import parse_strict_json
from sa2va_ray.serve.problems import Problem

_FORM, _JSON = "multipart/form-data", "application/json"
_MAX_LENGTH_DIGITS = 18


class BodyReader:
    """Reads bodies, each within its time, and a number of them at once. Past that number the one that began first gives
    way: senders that stop half-way cannot keep others out, and those who do send are seldom the oldest."""

    def __init__(self, limits: LimitsConfig, uris: UriPolicy, workers: ImageWorkers):
        self._limits, self._uris, self._workers = limits, uris, workers
        self._under_way: dict[asyncio.Timeout, None] = {}  # the oldest first

    async def images(self, request: Request, several: bool) -> tuple[list[bytes], SegmentOptions]:
        """The encoded images and the options of a multipart form or a JSON body.

        Args:
            several: `/v1/segment/batch`: any number of `file` fields, or `images`; else exactly one image.

        Raises:
            Problem: another content type, a body that is too large, too slow or cut off, no image, a wrong field.
        """
        _check_headers(request, self._limits)
        if request.query_params:
            raise Problem(422, "Wrong field", "Options stand in the address.", "Send them in the body.")
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type == _FORM:
            async with self._turn():
                images, fields = await read_form(request, self._limits)
            _check_number(len(images), several, "file")
            return images, form_options(fields)
        if content_type == _JSON:
            body = await self.json_object(request)
            return await (self._images_of_json(body) if several else self._image_of_json(body))
        raise Problem(
            415,
            "Unsupported content type",
            f"The content type is '{content_type[:100]}'.",
            f"Send {_FORM} with the field 'file', or {_JSON} with the image as base64 in 'image'.",
        )

    async def json_object(self, request: Request) -> dict[str, Any]:
        """The JSON object that is the body.

        Raises:
            Problem: as of `images`, or no JSON object.
        """
        _check_headers(request, self._limits)
        async with self._turn():
            data = await request.body()
        try:
            fields = parse_strict_json(data)
        except ValueError as error:
            detail = f"The body is not valid JSON: {error}"
            raise Problem(400, "Not JSON", detail, "Check it with a JSON parser.") from None
        if not isinstance(fields, dict):
            raise Problem(422, "Not an object", "The JSON body is no object.", 'Send {"image": "<base64>", ...}.')
        return fields

    async def _image_of_json(self, fields: dict[str, Any]) -> tuple[list[bytes], SegmentOptions]:
        uri = fields.pop("uri", None)
        if uri is None:
            return [await self._decode(fields.pop("image", None))], parse_options(fields)
        if "image" in fields or not isinstance(uri, str):
            raise Problem(422, "Wrong field", "Give either 'image' or 'uri', as text.", "Leave one of them out.")
        options = parse_options(fields)
        return [await fetch(uri, self._uris, self._limits.max_upload_bytes)], options

    async def _images_of_json(self, fields: dict[str, Any]) -> tuple[list[bytes], SegmentOptions]:
        images = fields.pop("images", None)
        if not isinstance(images, list):
            raise Problem(422, "No image", "The JSON body has no list 'images'.", "Send a list of base64 texts there.")
        _check_number(len(images), True, "images", self._limits.max_batch_images)
        return [await self._decode(image) for image in images], parse_options(fields)

    async def _decode(self, text: Any) -> bytes:
        return await self._workers.run_on(decode_base64, text) if isinstance(text, str) else decode_base64(text)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The time in which one body may arrive."""
        limits = self._limits
        try:
            async with asyncio.timeout(limits.read_timeout_s) as turn:
                self._give_up_oldest()
                self._under_way[turn] = None
                yield
        except TimeoutError:
            if turn not in self._under_way:
                raise _gave_way(limits) from None
            raise Problem(
                408,
                "Too slow",
                f"The request's body has not arrived within {limits.read_timeout_s:g} s.",
                "Send a smaller image, or over a faster line.",
            ) from None
        except ClientDisconnect:
            raise Problem(400, "Cut off", "The request's body ended early.", "Send it again.") from None
        finally:
            self._under_way.pop(turn, None)

    def _give_up_oldest(self) -> None:
        """Ends the body that began first where as many are under way as may be."""
        if len(self._under_way) == self._limits.max_bodies_at_once:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())


def _gave_way(limits: LimitsConfig) -> Problem:
    return Problem(
        503,
        "Too busy",
        f"More than {limits.max_bodies_at_once} bodies were arriving, of which this one had begun first.",
        "Try again after the seconds in Retry-After.",
        limits.retry_after_s,
    )


def _check_headers(request: Request, limits: LimitsConfig) -> None:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "Compressed body", "The body is compressed.", "Send it as it is: images are compressed.")
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS):
        raise Problem(411, "Length required", "The request has no Content-Length.", "Send one; chunks are not taken.")
    if int(length) > limits.max_upload_bytes:
        raise Problem(
            413,
            "Request too large",
            f"The body has {int(length):,} bytes, the limit is {limits.max_upload_bytes:,}.",
            "Send a smaller image, or one that is better compressed.",
        )


def _check_number(found: int, several: bool, field: str, most: int | None = None) -> None:
    if found == 0:
        raise Problem(422, "No image", f"The request has no image in '{field}'.", f"Send the image as '{field}'.")
    if found > 1 and not several:
        raise Problem(422, "Several images", f"The form has {found} images.", "Send them to /v1/segment/batch.")
    if most and found > most:
        raise Problem(413, "Too many images", f"The request has {found} images, the limit is {most}.", "Send fewer.")
