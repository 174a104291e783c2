"""EvaluateConfig: what `jobs.evaluate` takes."""

from typing import Literal

from pydantic import Field

from sa2va_ray.config import Config


class EvaluateConfig(Config):
    """One evaluation."""

    model: str
    """Exported model."""
    data: str
    """Prepared data set."""
    out: str
    """Folder for `metrics.json` and `images.jsonl`."""
    split: Literal["train", "val", "test"] = "test"
    batch_size: int = Field(4, gt=0)
    """Images of one forward pass."""
    num_actors: int = Field(1, gt=0)
    """Predictors at work side by side."""
    use_gpu: bool = True
    cpus_per_actor: float = Field(1.0, gt=0)
