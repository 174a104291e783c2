"""Label Studio's ML backend: `/label_studio/...`."""

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.label_studio.prediction import model_version
from sa2va_ray.serve.http import openapi
from sa2va_ray.serve.http.encode.replies import encode_json
from sa2va_ray.serve.http.endpoint import CurrentEndpoint, Endpoint
from sa2va_ray.serve.http.label_studio.images import fetch_image
from sa2va_ray.serve.http.label_studio.replies import (
    encode_prediction,
    health_reply,
    predict_reply,
    setup_reply,
)
from sa2va_ray.serve.http.label_studio.requests import TaskImage, read_data_uri, read_tasks
from sa2va_ray.serve.http.label_studio.webhook import new_annotations
from sa2va_ray.serve.http.protocol import ModelInfo, SegmentOptions
from sa2va_ray.serve.http.record import RequestRecord
from sa2va_ray.serve.problems import Problem, as_problem

_TASKS_AT_A_TIME = 16  # of one request

router = APIRouter()


@router.get("/label_studio/health")
async def label_studio_health() -> dict[str, Any]:
    return health_reply()


@router.post("/label_studio/setup", **openapi.LABEL_SETUP)
async def label_studio_setup(request: Request, endpoint: CurrentEndpoint) -> dict[str, Any]:
    """What Label Studio asks when the back end is added."""
    async with endpoint.recorder.record(request, "label_studio"):
        await endpoint.bodies.json_object(request)
        return setup_reply(_version(endpoint.served.info(None)))


@router.post("/label_studio/predict", **openapi.LABEL_TASKS)
async def label_studio_predict(request: Request, endpoint: CurrentEndpoint) -> Response:
    """Pre-annotations of Label Studio's tasks, as brush strokes. A task that fails alone has a `problem`."""
    async with endpoint.recorder.record(request, "label_studio") as whole:
        body = await endpoint.bodies.json_object(request)
        config, images = read_tasks(body, endpoint.limits.max_tasks)
        info = endpoint.served.info(None)
        at_a_time = asyncio.Semaphore(_TASKS_AT_A_TIME)
        results = await asyncio.gather(*(_predict(endpoint, info, whole, config, image, at_a_time) for image in images))
        reply = predict_reply(results, _version(info), request.state.id)
        encoded = await endpoint.workers.run(encode_json, reply, alone=False)
        return Response(encoded, media_type="application/json")


@router.post("/label_studio/webhook", **openapi.LABEL_EVENT)
async def label_studio_webhook(request: Request, endpoint: CurrentEndpoint) -> Response:
    """What Label Studio tells of its own accord: new annotations are counted, where the config says what for."""
    async with endpoint.recorder.record(request, "label_studio") as record:
        annotations = new_annotations(await endpoint.bodies.json_object(request))
        reply: dict[str, Any] = {"counted": 0}
        if endpoint.retraining and annotations:
            told = await endpoint.retraining.tell(annotations)
            reply = {"counted": len(annotations), **told}
        encoded = encode_json(reply)
        record.set_output(encoded)
        return Response(encoded, media_type="application/json")


async def _predict(
    endpoint: Endpoint,
    info: ModelInfo,
    whole: RequestRecord,
    config: LabelConfig,
    image: TaskImage,
    at_a_time: asyncio.Semaphore,
) -> dict[str, Any] | Problem:
    try:
        async with at_a_time, endpoint.recorder.record_part(whole, "label_studio_task") as record:
            return await _predict_image(endpoint, info, config, image, record)
    except Exception as error:
        return as_problem(error, whole.request_id)


async def _predict_image(
    endpoint: Endpoint, info: ModelInfo, config: LabelConfig, image: TaskImage, record: RequestRecord
) -> dict[str, Any]:
    """Asks one question for each label."""
    limits = endpoint.limits
    is_inline = image.uri.lower().startswith("data:")
    data = (
        await endpoint.workers.run_on(read_data_uri, image.uri)
        if is_inline
        else await fetch_image(image, endpoint.label_studio, endpoint.uris, limits.max_upload_bytes)
    )
    record.end_stage("read")
    options = SegmentOptions(prompt=[evaluation_prompt(label) for label in config.labels])
    encode = partial(encode_prediction, config, limits.max_outline_points)
    return await endpoint.answer(info, data, options, record, encode, wait=True)


def _version(info: ModelInfo) -> str:
    return model_version(info.name, info.sha256)
