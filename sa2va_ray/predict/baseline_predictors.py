"""Baselines as predictors: one mask for each query, whatever its prompt says.

They have no language: `Query.prompt` and `Query.answer` are ignored, and `Prediction.text` is empty.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from sa2va_ray import storage
from sa2va_ray.manifest import digest, verify_files
from sa2va_ray.models.baselines.config import NnunetModel, UnetConfig, check_nnunet
from sa2va_ray.models.baselines.unet import Unet, resize_maps, to_square
from sa2va_ray.models.baselines.vessel_filter import FittedFilter
from sa2va_ray.models.loading.place import check_finite_weights
from sa2va_ray.models.model_manifest import read_model_manifest
from sa2va_ray.predict.cleanup import CleanupConfig, clean_masks
from sa2va_ray.predict.predictor import Prediction, Query, rgb_images

if TYPE_CHECKING:  # slow to import, and from an extra
    from sa2va_ray.models.baselines.nnunet import NnunetNetwork

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class BaselinePredictor(ABC):
    """A loaded baseline. `predict` may be called from one thread at a time."""

    def __init__(self, manifest: dict[str, Any]):
        self.device = torch.device("cpu")
        self.name: str = manifest["name"]
        self.sha256: str | None = digest(manifest)
        self.threshold: float = manifest["threshold"]
        self.cleanup = CleanupConfig.parse(manifest.get("cleanup", {}))

    @classmethod
    def from_folder(cls, uri: str, device: str | None = None) -> Self:
        """Loads what `jobs.baseline` wrote, checked hash by hash.

        Args:
            device: "cuda" where there is one, else "cpu", by default; a vessel filter needs none.

        Raises:
            UserError: no model, or a damaged one.
        """
        manifest = read_model_manifest(uri, what="baseline")
        with storage.local_copy(uri) as folder:
            verify_files(folder, manifest)
            return cls._load(folder, manifest, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def predict(self, queries: Sequence[Query]) -> list[Prediction]:
        """One mask for each query; images may differ in size and mode. `score` is the mean probability of the
        pixels above the threshold, 0.0 where there are none."""
        return self.finish(self.run(self.prepare(queries)))

    def prepare(self, queries: Sequence[Query]) -> Sequence[Query]:
        """A baseline does all of its work in `run`."""
        return queries

    def run(self, queries: Sequence[Query]) -> list[Prediction]:
        maps = self._probabilities(rgb_images(queries)) if queries else []
        return [self._to_prediction(query, each) for query, each in zip(queries, maps, strict=True)]

    def finish(self, predictions: list[Prediction]) -> list[Prediction]:
        return predictions

    def num_tokens(self, prompt: str) -> int:
        return 0

    def compile(self) -> None:  # noqa: B027  # on purpose no baseline has to have one
        """A baseline is quick as it is."""

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path, manifest: dict[str, Any], device: str) -> Self: ...

    @abstractmethod
    def _probabilities(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """RGB images -> one (H, W) float32 in [0, 1] for each."""

    def _to_prediction(self, query: Query, probabilities: np.ndarray) -> Prediction:
        threshold = self.threshold if query.threshold is None else query.threshold
        cleanup = self.cleanup if query.cleanup is None else query.cleanup
        is_vessel = probabilities > threshold
        return Prediction(
            text="",
            masks=clean_masks(is_vessel[None], cleanup),
            probabilities=probabilities[None],
            score=float(probabilities[is_vessel].mean()) if is_vessel.any() else 0.0,
            threshold=threshold,
            cleanup=cleanup,
        )


class UnetPredictor(BaselinePredictor):
    """A trained U-Net. It runs at its own size; probabilities come back at the image's."""

    def __init__(self, model: Unet, image_size: int, device: str, manifest: dict[str, Any]):
        super().__init__(manifest)
        self._model = model.to(device).eval()
        self._image_size, self.device = image_size, torch.device(device)

    @classmethod
    def _load(cls, folder: Path, manifest: dict[str, Any], device: str) -> Self:
        config = UnetConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
        model = Unet(config)
        weights = load_file(folder / WEIGHTS_FILE)
        for name, tensor in weights.items():
            check_finite_weights(tensor, name, folder / WEIGHTS_FILE)
        model.load_state_dict(weights)
        return cls(model, config.image_size, device, manifest)

    @torch.inference_mode()
    def _probabilities(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        pixels = torch.stack([to_square(image, self._image_size) for image in images])
        maps = self._model(pixels.to(self.device)).sigmoid().cpu()
        return [resize_maps(each[None], (i.height, i.width))[0].numpy() for each, i in zip(maps, images, strict=True)]


class VesselFilterPredictor(BaselinePredictor):
    """A classical filter, fitted. It runs on the CPU, at the image's own size."""

    def __init__(self, fitted: FittedFilter, manifest: dict[str, Any]):
        super().__init__(manifest)
        self._fitted = fitted

    @classmethod
    def _load(cls, folder: Path, manifest: dict[str, Any], device: str) -> Self:
        return cls(FittedFilter.model_validate_json((folder / CONFIG_FILE).read_bytes()), manifest)

    def _probabilities(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        return [self._fitted.probabilities(image) for image in images]


class NnunetPredictor(BaselinePredictor):
    """A trained nnU-Net, which tiles, mirrors and resizes by itself. Of several phrases it gives the union, too."""

    def __init__(self, network: "NnunetNetwork", device: str, manifest: dict[str, Any]):
        super().__init__(manifest)
        self._network, self.device = network, torch.device(device)

    @classmethod
    def _load(cls, folder: Path, manifest: dict[str, Any], device: str) -> Self:
        check_nnunet()
        from sa2va_ray.models.baselines.nnunet import NnunetNetwork

        model = NnunetModel.model_validate_json((folder / CONFIG_FILE).read_bytes())
        weights = folder / WEIGHTS_FILE
        for name, tensor in load_file(weights).items():
            check_finite_weights(tensor, name, weights)
        return cls(NnunetNetwork(model, weights, device), device, manifest)

    def _probabilities(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        return [self._network.probabilities(image) for image in images]
