"""Any model that answers queries with masks, loaded by what its manifest says it is."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, read_model_manifest
from sa2va_ray.predict.baseline_predictors import NnunetPredictor, UnetPredictor, VesselFilterPredictor
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.predict.predictor import Prediction, Query, Sa2VAPredictor


class Predictor(Protocol):
    """What batch prediction, evaluation and serving need of a model. The attributes are those of `ModelFacts`."""

    name: str
    sha256: str | None
    threshold: float
    cleanup: CleanupConfig

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        """Answers all queries in one batch: its three stages one after the other."""
        ...

    def prepare(self, queries: Sequence[Query]) -> Any:
        """What goes before the model; one or more queries."""
        ...

    def run(self, prepared: Any) -> Any:
        """What the model does, which it may not be done with yet."""
        ...

    def finish(self, running: Any) -> list[Prediction]:
        """What comes behind the model. The stages of several batches may overlap, each in a thread of its own."""
        ...

    def compile(self) -> None:
        """Makes answers quicker from now on, where there is a way."""
        ...

    def num_tokens(self, prompt: str) -> int:
        """What a prompt costs; 0 where the model has no language."""
        ...


LOADERS: dict[str, Callable[[str, str | None], Predictor]] = {
    "sa2va": Sa2VAPredictor.from_pretrained,
    "unet": UnetPredictor.from_folder,
    "vessel_filter": VesselFilterPredictor.from_folder,
    "nnunet": NnunetPredictor.from_folder,
}
"""Kind of model -> its loader, which takes a URI and a device and checks the folder hash by hash."""


def load_predictor(uri: str, device: str | None = None) -> Predictor:
    """Loads the model at `uri`, of the kind that its manifest names; without one, a Sa2VA.

    Args:
        device: "cuda" where there is one, else "cpu", by default.

    Raises:
        UserError: no model, a damaged one, or one of a kind that this version does not know.
    """
    kind = _kind(uri)
    if kind not in LOADERS:
        raise UserError(
            f"{uri} is a model of the kind '{kind}'; this version loads {', '.join(sorted(LOADERS))}. "
            "Use the version of sa2va_ray that wrote it."
        )
    return LOADERS[kind](uri, device)


def _kind(uri: str) -> str:
    if not storage.exists(storage.join(uri, MODEL_MANIFEST)):
        return "sa2va"
    return read_model_manifest(uri, what="model").get("kind", "sa2va")
