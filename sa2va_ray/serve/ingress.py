"""The HTTP side: checks, decodes and encodes, and asks the model deployments. It holds no model.

(What the routes call is imported: `serve.ingress` copies them before anything below the class exists.)
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from sa2va_ray import __version__
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.serve import label_studio, open_inference, openapi
from sa2va_ray.serve.access import Access, Scope
from sa2va_ray.serve.ask import Asked, Models
from sa2va_ray.serve.audit import AuditLog
from sa2va_ray.serve.body import BodyReader
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.exchange import Exchange, Recorder
from sa2va_ray.serve.fetch import fetch
from sa2va_ray.serve.head import HeadAsGet
from sa2va_ray.serve.images import decode_image
from sa2va_ray.serve.label_studio import LabelConfig
from sa2va_ray.serve.metrics import RequestMetrics
from sa2va_ray.serve.page import page_routes
from sa2va_ray.serve.problems import Problem, problem_of_fault
from sa2va_ray.serve.process import prepare_process
from sa2va_ray.serve.protocol import ModelInfo, ModelList, SegmentOptions, SegmentReply
from sa2va_ray.serve.replies import PNG, problem_line, to_body, to_picture
from sa2va_ray.telemetry import LOGGER

_REQUEST_ID = "Sa2va-Request-ID"  # Serve puts an X-Request-ID of its own, or the caller's, on each reply
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_STREAMED = {"X-Accel-Buffering": "no"}  # nginx would hold lines back until it has a buffer full of them
_PREDICT: Scope = "predict"

api = FastAPI(
    title="sa2va_ray",
    version=__version__,
    description="Vessel masks from images. Not a medical device.",
    docs_url=None,  # its pages load scripts from other hosts
    redoc_url=None,
    responses=openapi.ANY,
    redirect_slashes=False,  # a redirect would name the host that the caller named
)
api.include_router(page_routes())
api.add_middleware(HeadAsGet)


@api.middleware("http")
async def _finish(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """The request id, and headers of every reply."""
    request.state.id = uuid.uuid4().hex
    response = await _respond(request, call_next)
    for name, value in {**_HEADERS, _REQUEST_ID: request.state.id}.items():
        response.headers.setdefault(name, value)
    return response


async def _respond(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    try:
        ingress: Any = serve.get_replica_context().servable_object
        await ingress.let_in(request)
        return await call_next(request)
    except Problem as problem:
        return problem.response(request.state.id)
    except Exception as error:
        return problem_of_fault(error, request.state.id).response(request.state.id)


@api.exception_handler(Problem)
async def _reply_with_problem(request: Request, problem: Problem) -> Response:
    return problem.response(request.state.id)


@api.exception_handler(HTTPException)
async def _reply_unknown(request: Request, error: HTTPException) -> Response:
    """What FastAPI itself refuses: unknown routes and methods."""
    problem = Problem(
        error.status_code,
        str(error.detail),
        "This route does not exist, or not with this method.",
        "/openapi.json lists the routes.",
    )
    response = problem.response(request.state.id)
    response.headers.update(error.headers or {})
    return response


@serve.deployment
@serve.ingress(api)
class Ingress:
    """One HTTP front."""

    def __init__(self, models: dict[str, DeploymentHandle], infos: dict[str, ModelInfo], args: ServeArgs):
        prepare_process()
        self._models, self._args = Models(models, infos, args), args
        self._bodies = BodyReader(args.limits, args.uris)
        access = Access.load(args.api_keys_file)
        LOGGER.info(access.says())
        audit = AuditLog(Path(args.audit_dir) / f"{uuid.uuid4().hex}.jsonl") if args.audit_dir else None
        self._recorder = Recorder(access, RequestMetrics(), audit)
        self.let_in = self._recorder.let_in

    @api.post("/v1/segment", response_model=SegmentReply, **openapi.SEGMENT)
    async def segment(self, request: Request) -> Response:
        """Masks of one image: multipart form with `file`, or JSON with `image` as base64 or `uri`; beside it `prompt`
        (one or several), `threshold`, `cleanup`, `output`, `model`. With `Accept: image/png` the reply is the union of
        the masks itself."""
        async with self._recorder.exchange(request, "segment", _PREDICT) as exchange:
            images, options = await self._bodies.images(request, several=False)
            exchange.lap("read")
            pixels, asked = await self._ask(images[0], options, exchange)
            if request.headers.get("accept") == PNG:
                return await asyncio.to_thread(to_picture, asked, options, exchange)
            body = await asyncio.to_thread(to_body, pixels, asked, options, exchange)
            return Response(exchange.gave(body), media_type="application/json")

    @api.post("/v1/segment/batch", **openapi.SEGMENT_BATCH)
    async def segment_batch(self, request: Request) -> StreamingResponse:
        """As `/v1/segment` for several images with the same options: a line of JSON for each, as soon as it is ready,
        with its `index`; an image that fails has a `problem` there."""
        async with self._recorder.exchange(request, "segment_batch", _PREDICT) as exchange:
            images, options = await self._bodies.images(request, several=True)
            self._models.info(options.model)
            exchange.lap("read")
        return StreamingResponse(
            self._lines(request, images, options), media_type="application/x-ndjson", headers=_STREAMED
        )

    @api.get("/v1/models", **openapi.READ)
    async def models(self, request: Request) -> ModelList:
        """Which models are served."""
        async with self._recorder.exchange(request, "models", _PREDICT):
            return ModelList(models=self._models.all_infos())

    @api.get("/v1/models/{name}", **openapi.READ_MODEL)
    async def model(self, name: str, request: Request) -> ModelInfo:
        """Hash, threshold, clean-up and limits of a model."""
        async with self._recorder.exchange(request, "model", _PREDICT):
            return self._models.info(name)

    @api.get("/livez")
    async def live(self) -> dict[str, str]:
        """This process answers."""
        return {"status": "live"}

    @api.get("/readyz", **openapi.READY)
    async def ready(self) -> dict[str, str]:
        """A replica of each model answers; of those that are scaled to nothing none is asked."""
        await self._models.check_ready()
        return {"status": "ready"}

    @api.get("/v2", **openapi.READ)
    async def server_metadata(self) -> dict[str, Any]:
        """Open Inference Protocol."""
        return open_inference.server_metadata(__version__)

    @api.get("/v2/health/live")
    async def server_live(self) -> dict[str, bool]:
        return {"live": True}

    @api.get("/v2/health/ready", **openapi.READY)
    async def server_ready(self) -> dict[str, bool]:
        await self._models.check_ready()
        return {"ready": True}

    @api.get("/v2/models/{name}", **openapi.READ_MODEL)
    async def model_metadata(self, name: str, request: Request) -> dict[str, Any]:
        async with self._recorder.exchange(request, "model", _PREDICT):
            return open_inference.model_metadata(self._models.info(name))

    @api.get("/v2/models/{name}/ready", **(openapi.READ_MODEL | openapi.READY))
    async def model_ready(self, name: str, request: Request) -> dict[str, Any]:
        async with self._recorder.exchange(request, "model", _PREDICT):
            info = self._models.info(name)
            await self._models.check_ready()
            return {"name": info.name, "ready": True}

    @api.get("/label_studio/health")
    async def label_studio_health(self) -> dict[str, Any]:
        return label_studio.health_reply()

    @api.post("/label_studio/setup", **openapi.LABEL_SETUP)
    async def label_studio_setup(self, request: Request) -> dict[str, Any]:
        """What Label Studio asks when the back end is added."""
        async with self._recorder.exchange(request, "label_studio", _PREDICT):
            await self._bodies.json_object(request)
            return label_studio.setup_reply(self._label_version())

    @api.post("/label_studio/predict", **openapi.LABEL_TASKS)
    async def label_studio_predict(self, request: Request) -> dict[str, Any]:
        """Pre-annotations of Label Studio's tasks, as brush strokes. A task that fails alone has a `problem`."""
        async with self._recorder.exchange(request, "label_studio", _PREDICT) as whole:
            body = await self._bodies.json_object(request)
            config, tasks = label_studio.read_tasks(body)
            at_a_time = asyncio.Semaphore(self._args.limits.max_batch_images)
            results = await asyncio.gather(*(self._label(whole, config, image, at_a_time) for _, image in tasks))
            return label_studio.predict_reply(results, self._label_version(), request.state.id)

    async def _label(
        self, whole: Exchange, config: LabelConfig, image: str, at_a_time: asyncio.Semaphore
    ) -> dict[str, Any] | Problem:
        try:
            async with at_a_time, self._recorder.part(whole, "label_studio_task") as exchange:
                return await self._label_image(config, image, exchange)
        except Problem as problem:
            return problem

    async def _label_image(self, config: LabelConfig, image: str, exchange: Exchange) -> dict[str, Any]:
        """One question for each label, about the image at a URI or in a data URI."""
        is_inline = image.lower().startswith("data:")
        most = self._args.limits.max_upload_bytes
        data = label_studio.read_data_uri(image) if is_inline else await fetch(image, self._args.uris, most)
        exchange.lap("read")
        prompts = [evaluation_prompt(label) for label in config.labels]
        _, asked = await self._ask(data, SegmentOptions(prompt=prompts), exchange)
        prediction = await asyncio.to_thread(label_studio.task_prediction, config, asked.model_name, asked.answers)
        exchange.lap("encode")
        exchange.gave(json.dumps(prediction).encode())
        return prediction

    def _label_version(self) -> str:
        info = self._models.info(None)
        return label_studio.model_version(info.name, info.sha256)

    async def _ask(self, data: bytes, options: SegmentOptions, exchange: Exchange) -> tuple[np.ndarray, Asked]:
        exchange.brought(data)
        pixels = await asyncio.to_thread(decode_image, data, self._args.limits.max_image_pixels)
        exchange.lap("decode")
        asked = await self._models.ask(pixels, options)
        exchange.answered_by(asked.model_name, asked.answers.sha256)
        exchange.split_lap("queue", "predict", asked.answers.predict_ms)
        return pixels, asked

    async def _lines(self, request: Request, images: list[bytes], options: SegmentOptions) -> AsyncIterator[bytes]:
        waiting = [asyncio.create_task(self._line(request, *each, options)) for each in enumerate(images)]
        try:
            for line in asyncio.as_completed(waiting):
                yield await line
        finally:  # the caller has gone
            for task in waiting:
                task.cancel()

    async def _line(self, request: Request, index: int, data: bytes, options: SegmentOptions) -> bytes:
        try:
            async with self._recorder.exchange(request, "segment_batch_image", _PREDICT) as exchange:
                pixels, asked = await self._ask(data, options, exchange)
                body = await asyncio.to_thread(to_body, pixels, asked, options, exchange)
                return b'{"index": %d, ' % index + exchange.gave(body)[1:] + b"\n"
        except Problem as problem:
            return problem_line(index, problem.document(request.state.id))
