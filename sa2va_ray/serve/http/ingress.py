"""The HTTP side: checks, decodes and encodes, and asks the model deployments. It holds no model.

(What the routes call is imported: `serve.ingress` copies them before anything below the class exists.)
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from sa2va_ray import __version__
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.guard.access import Access, Scope
from sa2va_ray.serve.guard.audit import AuditLog
from sa2va_ray.serve.guard.fetch import fetch
from sa2va_ray.serve.http import openapi
from sa2va_ray.serve.http.encode.replies import PNG, problem_line, to_body, to_json, to_picture, to_regions
from sa2va_ray.serve.http.image_workers import Workbench, is_large
from sa2va_ray.serve.http.label_studio import replies as label_studio
from sa2va_ray.serve.http.label_studio.replies import LabelConfig
from sa2va_ray.serve.http.middleware import HeadAsGet
from sa2va_ray.serve.http.model_handles import Asked, Models
from sa2va_ray.serve.http.protocol import ModelInfo, ModelList, SegmentOptions, SegmentReply
from sa2va_ray.serve.http.read.body import BodyReader
from sa2va_ray.serve.http.record import Exchange, Recorder
from sa2va_ray.serve.http.routes import open_inference
from sa2va_ray.serve.http.routes.page import page_routes
from sa2va_ray.serve.metrics import RequestMetrics
from sa2va_ray.serve.problems import Problem, as_problem
from sa2va_ray.serve.process_setup import check_message_length, give_memory_back, prepare_process
from sa2va_ray.telemetry import LOGGER

T = TypeVar("T")

_REQUEST_ID = "Sa2va-Request-ID"  # Serve puts an X-Request-ID of its own, or the caller's, on each reply
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_STREAMED = {"X-Accel-Buffering": "no"}  # nginx would hold lines back until it has a buffer full of them
_PREDICT: Scope = "predict"
_TASKS_AT_A_TIME = 16  # of one request of Label Studio

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
    except Exception as error:
        return as_problem(error, request.state.id).response(request.state.id)


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
        check_message_length()
        prepare_process()
        give_memory_back()
        self._models, self._args = Models(models, infos, args), args
        self._bodies = BodyReader(args.limits, args.uris)
        self._workbench = Workbench(args.limits)
        self._to_body = partial(to_body, args.limits.max_outline_points)
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
            if request.headers.get("accept") == PNG:
                return await self._answer(images[0], options, exchange, to_picture, wait=False)
            body = await self._answer(images[0], options, exchange, self._to_body, wait=False)
            return Response(body, media_type="application/json")

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
        """A replica of each model runs, busy or not; a model that may be scaled to nothing needs none."""
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
    async def label_studio_predict(self, request: Request) -> Response:
        """Pre-annotations of Label Studio's tasks, as brush strokes. A task that fails alone has a `problem`."""
        async with self._recorder.exchange(request, "label_studio", _PREDICT) as whole:
            body = await self._bodies.json_object(request)
            config, tasks = label_studio.read_tasks(body, self._args.limits.max_tasks)
            at_a_time = asyncio.Semaphore(_TASKS_AT_A_TIME)
            results = await asyncio.gather(*(self._label(whole, config, image, at_a_time) for _, image in tasks))
            reply = label_studio.predict_reply(results, self._label_version(), request.state.id)
            encoded = await self._workbench.run(to_json, reply, alone=False)
            return Response(encoded, media_type="application/json")

    async def _label(
        self, whole: Exchange, config: LabelConfig, image: str, at_a_time: asyncio.Semaphore
    ) -> dict[str, Any] | Problem:
        try:
            async with at_a_time, self._recorder.part(whole, "label_studio_task") as exchange:
                return await self._label_image(config, image, exchange)
        except Exception as error:
            return as_problem(error, whole.request_id)

    async def _label_image(self, config: LabelConfig, image: str, exchange: Exchange) -> dict[str, Any]:
        """One question for each label, about the image at a URI or in a data URI."""
        is_inline = image.lower().startswith("data:")
        most = self._args.limits.max_upload_bytes
        data = label_studio.read_data_uri(image) if is_inline else await fetch(image, self._args.uris, most)
        exchange.lap("read")
        options = SegmentOptions(prompt=[evaluation_prompt(label) for label in config.labels])
        max_points = self._args.limits.max_outline_points
        return await self._answer(data, options, exchange, partial(to_regions, config, max_points), wait=True)

    def _label_version(self) -> str:
        info = self._models.info(None)
        return label_studio.model_version(info.name, info.sha256)

    async def _answer(
        self,
        data: bytes,
        options: SegmentOptions,
        exchange: Exchange,
        encode: Callable[[Asked, Exchange], T],
        wait: bool,
    ) -> T:
        """Decodes, asks and encodes. One of several images of a request waits for memory; others are told to come
        again."""
        exchange.brought(data)
        num_prompts = min(len(options.prompt or [""]), self._args.limits.max_prompts)
        async with self._workbench.decoded(data, num_prompts, options.output == "probability", wait) as pixels:
            exchange.lap("decode")
            asked = await self._models.ask(pixels, options)
            exchange.answered_by(asked.model_name, asked.answers.sha256)
            exchange.split_lap("queue", "predict", asked.answers.predict_ms)
            alone = options.output == "polygons" or is_large(asked.height * asked.width)
            return await self._workbench.run(encode, asked, exchange, alone=alone)

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
                body = await self._answer(data, options, exchange, self._to_body, wait=True)
                return b'{"index": %d, ' % index + body[1:] + b"\n"
        except Exception as error:  # whatever it is: each image has its line
            return problem_line(index, as_problem(error, request.state.id).document(request.state.id))
