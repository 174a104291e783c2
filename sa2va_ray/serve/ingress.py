"""The HTTP side: checks, decodes and encodes, and asks the model deployment."""

import asyncio
import uuid

from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from sa2va_ray import __version__
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.protocol import (
    ModelInfo,
    Problem,
    SegmentReply,
    decode_image,
    read_request,
    to_masks,
    to_png,
)
from sa2va_ray.telemetry import Stopwatch

api = FastAPI(title="sa2va_ray", version=__version__, description="Vessel masks from images. Not a medical device.")


@api.exception_handler(Problem)
async def _reply_with_problem(request: Request, problem: Problem) -> Response:
    return problem.response()


@serve.deployment
@serve.ingress(api)
class Ingress:
    """One HTTP front; holds no model."""

    def __init__(self, model: DeploymentHandle, args: ServeArgs):
        self._model = model
        self._args = args
        self._info: ModelInfo | None = None

    @api.post("/v1/segment", response_model=SegmentReply)
    async def segment(self, request: Request) -> Response | SegmentReply:
        """Masks of one image: multipart form with `file`, or JSON with `image` as base64; beside it `prompt` and
        `threshold`. With `Accept: image/png` the reply is the union of the masks."""
        clock, timing_ms = Stopwatch(), {}
        data, options = await read_request(request, self._args.max_upload_bytes)
        image = await asyncio.to_thread(decode_image, data, self._args.max_image_pixels)
        timing_ms["decode"] = 1000 * clock.lap_s()
        prompt = options.prompt or self._args.default_prompt
        try:
            prediction = await self._model.predict.remote(image, prompt, options.threshold)
        except BackPressureError:
            raise Problem(503, "Too busy", "All replicas are busy and the queue is full.", "Try again later.") from None
        timing_ms["predict"] = 1000 * clock.lap_s()
        if request.headers.get("accept") == "image/png":
            return Response(await asyncio.to_thread(to_png, prediction.union()), media_type="image/png")
        masks = await asyncio.to_thread(to_masks, prediction)
        timing_ms["encode"] = 1000 * clock.lap_s()
        height, width = image.shape[:2]
        return SegmentReply(
            request_id=uuid.uuid4().hex,
            model=await self.model(),
            prompt=prompt,
            text=prediction.text,
            height=height,
            width=width,
            threshold=prediction.threshold,
            score=prediction.score,
            masks=masks,
            timing_ms=timing_ms,
        )

    @api.get("/v1/model")
    async def model(self) -> ModelInfo:
        """Which model is served."""
        if self._info is None:
            self._info = await self._model.describe.remote()
        return self._info

    @api.get("/livez")
    async def live(self) -> dict[str, str]:
        return {"status": "live"}

    @api.get("/readyz")
    async def ready(self) -> dict[str, str]:
        """Answers when a model replica does."""
        await self._model.describe.remote()
        return {"status": "ready"}
