"""Asking a model deployment: which one, and what happens when it is busy or a replica dies."""

from dataclasses import dataclass

import numpy as np
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.messages import Answers, Question
from sa2va_ray.serve.problems import Problem
from sa2va_ray.serve.protocol import ModelInfo, SegmentOptions
from sa2va_ray.telemetry import LOGGER

_TRIES = 3  # a question changes nothing, so that one whose replica died can be asked again


@dataclass(frozen=True)
class Asked:
    """A question with its answers, and under which name the model answers."""

    model_name: str
    prompts: tuple[str, ...]
    answers: Answers


class Models:
    """The model deployments by name."""

    def __init__(self, handles: dict[str, DeploymentHandle], infos: dict[str, ModelInfo], args: ServeArgs):
        self._handles, self.infos, self._args = handles, infos, args

    def info(self, name: str | None) -> ModelInfo:
        """None is the default.

        Raises:
            Problem: there is none of the name.
        """
        found = self.infos.get(name or self._args.default_name())
        if found is None:
            names = ", ".join(self.infos)
            raise Problem(404, "Unknown model", "No model of this name is served.", f"Served are: {names}.")
        return found

    def all_infos(self) -> list[ModelInfo]:
        """The default first."""
        default = self.info(None)
        return [default, *(each for each in self.infos.values() if each is not default)]

    async def ask(self, image: np.ndarray, options: SegmentOptions) -> Asked:
        """
        Args:
            image: (H, W) or (H, W, 3) uint8.

        Raises:
            Problem: an unknown model, too many prompts, all replicas busy, or the model fails on this image.
        """
        info = self.info(options.model)
        prompts = tuple(options.prompt or [info.default_prompt])
        if len(prompts) > self._args.limits.max_prompts:
            raise Problem(
                422,
                "Too many prompts",
                f"The request has {len(prompts)} prompts, the limit is {self._args.limits.max_prompts}.",
                "Send several requests.",
            )
        question = Question(
            image, prompts, options.threshold, options.cleanup, wants_probabilities=options.output == "probability"
        )
        answers = await self._ask(info.name, question)
        if answers.error:
            raise Problem(
                422,
                "The model failed",
                f"The model could not work on this image ({answers.error}). Other requests are not touched.",
                "Send it smaller, or in 8 bits; tell whoever runs this endpoint the request id.",
            )
        return Asked(info.name, prompts, answers)

    async def check_ready(self) -> None:
        """
        Raises:
            Problem: a model that has replicas does not answer.
        """
        for name, handle in self._handles.items():
            autoscaling = self._args.models[name].autoscaling
            if autoscaling is None or autoscaling.min_replicas:
                try:
                    await handle.ping.remote()
                except (RayError, DeploymentUnavailableError):
                    raise self._not_ready(f"The model '{name}' does not answer.") from None

    async def _ask(self, name: str, question: Question) -> Answers:
        for _ in range(_TRIES):
            try:
                return await self._handles[name].answer.remote(question)
            except BackPressureError:
                raise Problem(
                    503,
                    "Too busy",
                    "All replicas are busy and the queue is full.",
                    "Try again after the seconds in Retry-After.",
                    self._args.limits.retry_after_s,
                ) from None
            except (RayError, DeploymentUnavailableError) as error:
                LOGGER.warning("a replica of %s was lost with a question in it: %s", name, type(error).__name__)
        raise self._not_ready(f"Replicas of the model '{name}' were lost {_TRIES} times in a row.")

    def _not_ready(self, detail: str) -> Problem:
        cure = "Try again after the seconds in Retry-After; the state is on the Ray dashboard."
        return Problem(503, "Not ready", detail, cure, self._args.limits.retry_after_s)
