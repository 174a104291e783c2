"""BaselineConfig: what `jobs.baseline` takes."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from sa2va_ray.cluster.config import ClusterConfig, WorkersConfig
from sa2va_ray.config import Seed
from sa2va_ray.data.config import PipelineConfig
from sa2va_ray.models.baselines.config import FilterConfig, UnetConfig
from sa2va_ray.storage import KeptUri, Uri

BaselineKind = Literal["unet", "vessel_filter"]
"""Each has its settings under a key of its own name."""


class UnetTrainingConfig(WorkersConfig):
    """AdamW, with a learning rate that rises over the first 30 % of the steps and falls to zero by a cosine."""

    network: UnetConfig = UnetConfig()
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.01, ge=0)
    num_epochs: int = Field(100, gt=0)
    global_batch_size: int = Field(8, gt=0)
    """Samples of one optimizer step, over all workers."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _all_work(self) -> Self:
        if self.global_batch_size < self.num_workers:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} gives nothing to some of num_workers {self.num_workers}"
            )
        return self


class FilterFittingConfig(FilterConfig):
    """A vessel filter, and what is learned of it on the training patients."""

    polarity: Literal["auto", "bright", "dark"] = "auto"
    """Whether vessels are brighter or darker than what is around them; `auto` takes what has the higher Dice."""


class BaselineConfig(ClusterConfig):
    """One baseline."""

    kind: BaselineKind
    name: str
    """Name of the model, shown in every result."""
    data_uri: Uri
    """Prepared data set."""
    out: KeptUri
    """Folder of the model."""
    unet: UnetTrainingConfig = Field(default_factory=UnetTrainingConfig)
    vessel_filter: FilterFittingConfig = Field(default_factory=FilterFittingConfig)

    @model_validator(mode="after")
    def _keys_are_of_this_kind(self) -> Self:
        if other := (self.model_fields_set & set(get_args(BaselineKind))) - {self.kind}:
            raise ValueError(f"kind is '{self.kind}', so the keys below {', '.join(other)} have no effect: remove them")
        return self
