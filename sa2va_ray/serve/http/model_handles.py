"""Handles of the model deployments: which one is asked, and what happens when it is busy or a replica dies."""

from dataclasses import dataclass

import grpc
import numpy as np
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.http.encode.output_forms import OUTPUT_FORMS
from sa2va_ray.serve.http.protocol import ModelInfo, Output, SegmentOptions
from sa2va_ray.serve.http.readiness import RunningReplicas
from sa2va_ray.serve.messages import Calibration, ModelReply, Question
from sa2va_ray.serve.problems import Problem
from sa2va_ray.telemetry import LOGGER

_TRIES = 3  # a question changes nothing, so that one whose replica died can be asked again
_MESSAGE_BYTES = 2**20
"""Larger messages go through Ray's object store, which has no limit for their size and copies less; for smaller ones
gRPC is quicker: 1.9 ms there and back against 4.7 for an image of 512 px. `_by_reference` of Serve's handles is
private, and kept because no public option chooses the way for one message: RAY_SERVE_USE_GRPC_BY_DEFAULT holds for all
messages of a process, the large ones too."""


@dataclass(frozen=True)
class SegmentedImage:
    """What a model found in an image of `height` x `width` px.

    Attributes:
        model_name: under which the model is served.
        output: name of the form in which the caller wants the masks.
    """

    model_name: str
    prompts: tuple[str, ...]
    output: Output
    reply: ModelReply
    height: int
    width: int


class ModelHandles:
    """The model deployments by name."""

    def __init__(self, handles: dict[str, DeploymentHandle], args: ServeArgs):
        self._handles, self._args = handles, args
        self._running = RunningReplicas()

    async def segment(self, info: ModelInfo, image: np.ndarray, options: SegmentOptions) -> SegmentedImage:
        """Asks a model, whose calibration holds for what the options leave open.

        Args:
            image: (H, W) or (H, W, 3) uint8.

        Raises:
            Problem: too many prompts, all replicas busy, or the model fails on this image.
        """
        prompts = tuple(options.prompt or [info.default_prompt])
        if len(prompts) > self._args.limits.max_prompts:
            raise Problem(
                422,
                "Too many prompts",
                f"The request has {len(prompts)} prompts, the limit is {self._args.limits.max_prompts}.",
                "Send several requests.",
            )
        height, width = image.shape[:2]
        if options.cleanup:
            _check_cleanup(options.cleanup, height, width, self._args.limits.max_image_pixels)
        wants_probabilities = OUTPUT_FORMS[options.output].needs_probabilities
        calibration = Calibration(info.sha256, info.threshold, info.cleanup)
        question = Question(image, prompts, options.threshold, options.cleanup, wants_probabilities, calibration)
        reply = await self._ask(info.name, question)
        if reply.problem:
            raise reply.problem
        return SegmentedImage(info.name, prompts, options.output, reply, height, width)

    async def check_ready(self) -> None:
        """Asks Serve's controller: a question to a replica would wait behind those of the callers.

        Raises:
            Problem: a model that should have replicas has none that runs.
        """
        try:
            running = await self._running.get()
        except RayError as error:
            raise self._not_ready(f"Serve's controller does not answer ({type(error).__name__}).") from None
        for name, handle in self._handles.items():
            autoscaling = self._args.models[name].autoscaling
            if (autoscaling is None or autoscaling.min_replicas) and not running.get(handle.deployment_name):
                raise self._not_ready(f"The model '{name}' has no replica that runs.")

    async def _ask(self, name: str, question: Question) -> ModelReply:
        """The one place where whatever Ray and Serve raise becomes a problem."""
        by_reference = question.message_bytes > _MESSAGE_BYTES
        for _ in range(_TRIES):
            handle = self._handles[name].options(_by_reference=by_reference)
            try:
                return await handle.answer.remote(question)
            except BackPressureError:
                raise Problem(
                    503,
                    "Too busy",
                    "All replicas are busy and the queue is full.",
                    "Try again after the seconds in Retry-After.",
                    self._args.limits.retry_after_s,
                ) from None
            except RayTaskError as error:  # of our own code; the replica lives
                raise error.cause from None
            except grpc.aio.AioRpcError as error:
                by_reference = by_reference or error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                LOGGER.warning("a question to %s was lost: gRPC %s", name, error.code().name)
            except (RayError, RayServeException, RuntimeError) as error:  # RuntimeError: Serve's own, of a connection
                LOGGER.warning("a replica of %s was lost with a question in it: %s", name, type(error).__name__)
        raise self._not_ready(f"Replicas of the model '{name}' were lost {_TRIES} times in a row.")

    def _not_ready(self, detail: str) -> Problem:
        cure = "Try again after the seconds in Retry-After; the state is on the Ray dashboard."
        return Problem(503, "Not ready", detail, cure, self._args.limits.retry_after_s)


def _check_cleanup(cleanup: CleanupConfig, height: int, width: int, max_image_pixels: int) -> None:
    """Refuses radii beyond half of the image and areas beyond the largest one: they only cost time."""
    radius_px = max(1, min(height, width) // 2)
    most = {
        "close_px": radius_px,
        "open_px": radius_px,
        "min_component_px": max_image_pixels,
        "max_hole_px": max_image_pixels,
    }
    for name, bound in most.items():
        asked = getattr(cleanup, name)
        if asked > bound:
            why = "half of the image's shorter side" if bound == radius_px else "all pixels of the largest image"
            raise Problem(422, "Wrong field", f"cleanup.{name}: {asked} is more than {why}.", f"Send {bound} at most.")
