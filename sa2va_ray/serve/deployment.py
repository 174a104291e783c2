"""The model deployment: a shim of dynamic batches around the predictor."""

import asyncio
from typing import Any

import numpy as np
from PIL import Image
from ray import serve

from sa2va_ray.predict.predictor import Prediction, Query, Sa2VAPredictor
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.protocol import ModelInfo

_WARM_UP_SIDE = 64  # px
_batch: Any = serve.batch  # its annotations know neither methods of several arguments nor the setters it adds


@serve.deployment
class SegmentationModel:
    """One replica: a model on one device."""

    def __init__(self, args: ServeArgs):
        self._predictor = Sa2VAPredictor.from_pretrained(args.model)
        self.predict.set_max_batch_size(args.max_batch_size)
        self.predict.set_batch_wait_timeout_s(args.batch_wait_timeout_s)
        # The first pass is slow (kernels, threads); it should not be a user's.
        self._predictor.predict([Query(Image.new("RGB", (_WARM_UP_SIDE, _WARM_UP_SIDE)), args.default_prompt)])

    @_batch
    async def predict(
        self, images: list[np.ndarray], prompts: list[str], thresholds: list[float | None]
    ) -> list[Prediction]:
        """Called with one image (H, W, 3) uint8, prompt and threshold; runs with those of several callers."""
        queries = [
            Query(Image.fromarray(image), prompt, threshold=threshold)
            for image, prompt, threshold in zip(images, prompts, thresholds, strict=True)
        ]
        return await asyncio.to_thread(self._predictor.predict, queries)

    def describe(self) -> ModelInfo:
        return ModelInfo(name=self._predictor.name, sha256=self._predictor.sha256, threshold=self._predictor.threshold)
