"""PredictConfig: what `jobs.predict` takes; its parts are for all that predicts."""

from typing import Any, Literal

from pydantic import Field

from sa2va_ray.cluster.config import PoolConfig
from sa2va_ray.config import LARGEST_IMAGE_PX, Config, MaxPixels
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.storage import KeptUri, Uri

TTA = Literal["none", "flips"]


class PredictOptions(Config):
    """How masks are made of an image."""

    threshold: float | None = Field(None, ge=0, le=1)
    """Pixels of a greater probability belong to the mask; the model's own by default."""
    cleanup: CleanupConfig | None = None
    """Clean-up of the masks; the model's own by default, `cleanup={}` for none."""
    tta: TTA = "none"
    """Test-time augmentation: `flips` averages over the image and its three mirror images."""
    max_pixels: MaxPixels = LARGEST_IMAGE_PX
    """Largest height x width of an image."""

    def columns(self, threshold: float, cleanup: CleanupConfig) -> dict[str, Any]:
        """`threshold`, `cleanup` and `tta` as results tell them, with those of a model where this gives none."""
        return {
            "threshold": threshold if self.threshold is None else self.threshold,
            "cleanup": (cleanup if self.cleanup is None else self.cleanup).model_dump(),
            "tta": self.tta,
        }


class PredictConfig(PredictOptions, PoolConfig):
    """One prediction job."""

    model: Uri
    """Exported model."""
    source: str
    """Image, folder, glob, video, DICOM file or prepared data set: a path, `s3://...`, or a data set of the
    Hugging Face hub: `hf://datasets/owner/name[@revision][/path]`."""
    out: KeptUri
    """Folder for the masks and the results. A second start with the same `out` predicts what is missing."""
    split: Literal["train", "val", "test"] | None = None
    """Split of a prepared data set; all by default."""
    prompt: str = Field(evaluation_prompt("blood vessels"), min_length=1)
    """What is asked of each image. An answer with several [SEG] gives as many masks in `coco.json` and
    `results.parquet`, and their union in the pictures."""
    probabilities: bool = False
    """Writes `probabilities/ID.png`, 16 bit: probability x 65535."""
    overlays: bool = False
    """Writes `overlays/ID.png`: the image with the mask over it."""
    panels: bool = False
    """Writes `panels/ID.png`: image, mask and overlay side by side, the longer side of each at most 512 px."""
    keep_names: bool = False
    """Calls the files by the names of the images, and gives these in the results. Names of files may tell a patient:
    then `out` must be kept where patients' names may be. Without it they are called by the hash of the image."""
