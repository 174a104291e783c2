"""Masks: `/v1/segment` and `/v1/segment/batch`."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from sa2va_ray.serve.http import openapi
from sa2va_ray.serve.http.encode.replies import PNG, encode_json, encode_reply, encode_union_png
from sa2va_ray.serve.http.endpoint import CurrentEndpoint, Endpoint
from sa2va_ray.serve.http.protocol import ModelInfo, SegmentOptions, SegmentReply
from sa2va_ray.serve.problems import as_problem

_NOT_BUFFERED = {"X-Accel-Buffering": "no"}  # nginx would hold lines back until it has a buffer full of them

router = APIRouter()


@router.post("/v1/segment", response_model=SegmentReply, **openapi.SEGMENT)
async def segment(request: Request, endpoint: CurrentEndpoint) -> Response:
    """Masks of one image: multipart form with `file`, or JSON with `image` as base64 or `uri`; beside it `prompt`
    (one or several), `threshold`, `cleanup`, `output`, `model`. With `Accept: image/png` the reply is the union of
    the masks itself."""
    async with endpoint.recorder.record(request, "segment") as record:
        (image,), options = await endpoint.bodies.images(request, several=False)
        info = endpoint.served.info(options.model)
        record.end_stage("read")
        if request.headers.get("accept") == PNG:
            return await endpoint.answer(info, image, options, record, encode_union_png, wait=False)
        encode = partial(encode_reply, endpoint.limits.max_outline_points)
        body = await endpoint.answer(info, image, options, record, encode, wait=False)
        return Response(body, media_type="application/json")


@router.post("/v1/segment/batch", **openapi.SEGMENT_BATCH)
async def segment_batch(request: Request, endpoint: CurrentEndpoint) -> StreamingResponse:
    """As `/v1/segment` for several images with the same options: a line of JSON for each, as soon as it is ready,
    with its `index`; an image that fails has a `problem` there."""
    async with endpoint.recorder.record(request, "segment_batch") as record:
        images, options = await endpoint.bodies.images(request, several=True)
        info = endpoint.served.info(options.model)
        record.end_stage("read")
    lines = _lines(endpoint, info, request, images, options)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=_NOT_BUFFERED)


async def _lines(
    endpoint: Endpoint, info: ModelInfo, request: Request, images: list[bytes], options: SegmentOptions
) -> AsyncIterator[bytes]:
    tasks = [asyncio.create_task(_line(endpoint, info, request, *each, options)) for each in enumerate(images)]
    try:
        for line in asyncio.as_completed(tasks):
            yield await line
    finally:  # the caller has gone
        for task in tasks:
            task.cancel()


async def _line(
    endpoint: Endpoint, info: ModelInfo, request: Request, index: int, image: bytes, options: SegmentOptions
) -> bytes:
    try:
        async with endpoint.recorder.record(request, "segment_batch_image") as record:
            encode = partial(encode_reply, endpoint.limits.max_outline_points)
            body = await endpoint.answer(info, image, options, record, encode, wait=True)
            return b'{"index": %d, ' % index + body[1:] + b"\n"
    except Exception as error:  # whatever it is: each image has its line
        problem: dict[str, Any] = as_problem(error, request.state.id).document(request.state.id)
        return encode_json({"index": index, "problem": problem}) + b"\n"
