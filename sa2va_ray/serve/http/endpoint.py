"""What the routes of an ingress share: the models, the readers of bodies, the image workers and the records."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from ray.serve.handle import DeploymentHandle

from sa2va_ray.label_studio.server import LabelStudio
from sa2va_ray.serve.config import LimitsConfig, ServeArgs
from sa2va_ray.serve.guard.access import Access
from sa2va_ray.serve.guard.audit_log import AuditLog
from sa2va_ray.serve.guard.fetch import UriPolicy
from sa2va_ray.serve.http.encode.output_forms import OUTPUT_FORMS
from sa2va_ray.serve.http.image_workers import ImageWorkers, is_large
from sa2va_ray.serve.http.model_handles import ModelHandles, SegmentedImage
from sa2va_ray.serve.http.protocol import ModelInfo, SegmentOptions
from sa2va_ray.serve.http.read.body import BodyReader
from sa2va_ray.serve.http.record import Recorder, RequestRecord
from sa2va_ray.serve.http.served_models import ServedModels
from sa2va_ray.serve.metrics import RequestMetrics
from sa2va_ray.serve.retraining import RetrainingCounter
from sa2va_ray.telemetry import LOGGER

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """The parts of one ingress that its routes work with."""

    limits: LimitsConfig
    uris: UriPolicy
    label_studio: LabelStudio | None
    retraining: RetrainingCounter | None
    served: ServedModels
    models: ModelHandles
    bodies: BodyReader
    workers: ImageWorkers
    recorder: Recorder

    @classmethod
    def open(cls, handles: dict[str, DeploymentHandle], infos: dict[str, ModelInfo], args: ServeArgs) -> "Endpoint":
        """Reads the API keys, and begins a file of the audit log where one is wanted.

        Raises:
            UserError: keys that cannot be read, no folder for the audit log, or no token of Label Studio.
        """
        access, workers = Access.load(args.api_keys_file), ImageWorkers(args.limits)
        LOGGER.info(access.describe())
        audit = AuditLog(Path(args.audit_dir) / f"{uuid.uuid4().hex}.jsonl") if args.audit_dir else None
        return cls(
            limits=args.limits,
            uris=args.uris,
            label_studio=LabelStudio(args.label_studio) if args.label_studio else None,
            retraining=RetrainingCounter(args.retrain) if args.retrain else None,
            served=ServedModels(infos, args),
            models=ModelHandles(handles, args),
            bodies=BodyReader(args.limits, args.uris, workers),
            workers=workers,
            recorder=Recorder(access, RequestMetrics(), audit),
        )

    async def answer(
        self,
        info: ModelInfo,
        image: bytes,
        options: SegmentOptions,
        record: RequestRecord,
        encode: Callable[[SegmentedImage, RequestRecord], T],
        wait: bool,
    ) -> T:
        """Decodes an image, asks the model about it, and encodes what it found.

        Args:
            info: the model as it was when the request came: a calibration that changes meanwhile is not for it.
            encode: runs in a thread; ends the stage `encode` of the record.
            wait: wait for memory, as the images of a request with several do; otherwise a request that finds none is
                refused.

        Raises:
            Problem: whatever keeps this image from an answer.
        """
        form = OUTPUT_FORMS[options.output]
        await self.workers.run_on(record.set_input, image)
        num_prompts = min(len(options.prompt or [""]), self.limits.max_prompts)
        async with self.workers.decoded(image, num_prompts, form.needs_probabilities, wait) as pixels:
            record.end_stage("decode")
            found = await self.models.segment(info, pixels, options)
            record.model_sha256 = found.reply.calibration.sha256
            record.end_two_stages("queue", "predict", found.reply.predict_ms)
            alone = form.count_points is not None or is_large(found.height * found.width)
            return await self.workers.run(encode, found, record, alone=alone)


async def endpoint_of(request: Request) -> Endpoint:
    """The endpoint of the application that a request came to."""
    return request.app.state.endpoint


CurrentEndpoint = Annotated[Endpoint, Depends(endpoint_of)]
"""Parameter of a route: FastAPI gives it the endpoint."""
