"""What an ingress knows of the models that it serves, and what lies at their URIs by now.

A calibration is no part of a model's weights, so that a new one is taken up while the endpoint runs: each question
brings the calibration that its ingress knows, whichever replica answers it. Other weights are served by a deployment
alone.
"""

import asyncio

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import parse_manifest
from sa2va_ray.models.model_manifest import MODEL_MANIFEST
from sa2va_ray.predict.facts import ModelFacts
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.http.protocol import ModelInfo
from sa2va_ray.serve.problems import Problem
from sa2va_ray.telemetry import LOGGER

_WAIT_S = 5.0  # for a store, before the first request and in each health check, which has 30 s


class ServedModels:
    """The models by name."""

    def __init__(self, infos: dict[str, ModelInfo], args: ServeArgs):
        self._infos, self._args = dict(infos), args
        self._look: asyncio.Task[None] | None = None

    def info(self, name: str | None) -> ModelInfo:
        """The model of this name; None is the default one. It is never changed: a new calibration is a new one.

        Raises:
            Problem: there is none of the name.
        """
        found = self._infos.get(name or self._args.default_name())
        if found is None:
            names = ", ".join(self._infos)
            raise Problem(404, "Unknown model", "No model of this name is served.", f"Served are: {names}.")
        return found

    def all_infos(self) -> list[ModelInfo]:
        """All models, the default one first."""
        default = self.info(None)
        return [default, *(each for each in self._infos.values() if each is not default)]

    def notices(self) -> list[str]:
        """A sentence for each model in whose place another one lies."""
        return [
            f"Where the model '{each.name}' ({each.sha256[:12]}) was, another one lies ({each.stored_sha256[:12]}): it "
            "is served by the next `sa2va-ray deploy`. Replicas that start before fail."
            for each in self._infos.values()
            if each.stored_sha256 and each.stored_sha256 != each.sha256
        ]

    async def look_again(self) -> None:
        """Looks at the models' manifests and takes up new calibrations. A store that does not answer is waited for in
        the background, one look at a time; nothing is raised."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_at_all())
        await asyncio.wait({self._look}, timeout=_WAIT_S)

    async def _look_at_all(self) -> None:
        for name, model in self._args.models.items():
            before = self._infos[name]
            try:
                now = await asyncio.to_thread(_stored, before, model.uri)
            except (OSError, UserError, ValueError) as error:
                now = before.model_copy(update={"stored_sha256": None})
                if before.stored_sha256:
                    LOGGER.warning(
                        "the manifest of the model %s cannot be read, which is served as it is: %s", name, error
                    )
            self._infos[name] = now
            _log_change(before, now)


def _stored(served: ModelInfo, uri: str) -> ModelInfo:
    """What is served of a model whose manifest says what it says now: of the same weights, its calibration."""
    manifest = parse_manifest(storage.read_bytes(storage.join(uri, MODEL_MANIFEST)))
    facts = ModelFacts.from_manifest(manifest)
    values = served.model_dump() | {"stored_sha256": facts.sha256}
    if facts.sha256 == served.sha256:
        values |= {"threshold": facts.threshold, "cleanup": facts.cleanup}
    return ModelInfo.model_validate(values)


def _log_change(before: ModelInfo, now: ModelInfo) -> None:
    if (before.threshold, before.cleanup) != (now.threshold, now.cleanup):
        LOGGER.info(
            "the model %s was calibrated anew: threshold %.4f (was %.4f), clean-up %s",
            *(now.name, now.threshold, before.threshold, now.cleanup.model_dump()),
        )
    if now.stored_sha256 and now.stored_sha256 not in (now.sha256, before.stored_sha256):
        LOGGER.warning(
            "where the model %s was lies another one, %s: %s is served until `sa2va-ray deploy`, and replicas that "
            "start before fail",
            *(now.name, now.stored_sha256[:12], now.sha256[:12]),
        )
    if now.stored_sha256 == now.sha256 != before.stored_sha256:
        LOGGER.info("the model %s lies at its URI as it is served", now.name)
