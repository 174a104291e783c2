"""The result for one image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Result:
    """What the endpoint replied for one image of `height` x `width` px.

    Attributes:
        model_sha256: of the exported folder that answered.
        threshold: that the masks were made with.
        answers: one for each prompt: `prompt`, `text`, `score`, `area_fraction`, `mean_confidence`, and `masks`, each
            with its `area_fraction` and, under the name of the output, what was asked for.
        timing_ms: time of each stage at the endpoint.
    """

    request_id: str
    model_name: str
    model_sha256: str
    threshold: float
    height: int
    width: int
    answers: tuple[dict[str, Any], ...]
    timing_ms: dict[str, float]

    def mask(self, i: int = 0) -> "np.ndarray":
        """(H, W) bool: all masks of the answer to prompt `i` together; empty where it has none.

        Raises:
            ValueError: the output that was asked for is not `rle`.
        """
        return self._union([self.answers[i]])

    def union(self) -> "np.ndarray":
        """(H, W) bool: all masks of all answers."""
        return self._union(self.answers)

    def _union(self, answers: Sequence[dict[str, Any]]) -> "np.ndarray":
        import numpy as np
        from pycocotools import mask as coco_mask

        masks = [mask for answer in answers for mask in answer["masks"]]
        if any("rle" not in mask for mask in masks):
            raise ValueError("Masks are decoded from run lengths: ask with output='rle', which is the default.")
        if not masks:
            return np.zeros((self.height, self.width), bool)
        rles = [{"size": mask["rle"]["size"], "counts": mask["rle"]["counts"].encode()} for mask in masks]
        return coco_mask.decode(coco_mask.merge(rles)).astype(bool)
