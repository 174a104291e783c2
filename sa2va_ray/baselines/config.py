"""BaselineConfig: what `jobs.baseline` takes."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sa2va_ray.cluster.config import ClusterConfig
from sa2va_ray.config import Config
from sa2va_ray.data.pipeline import PipelineConfig
from sa2va_ray.models.baselines.unet import UnetConfig
from sa2va_ray.models.baselines.vessel_filter import FilterConfig
from sa2va_ray.storage import Uri


class UnetTrainingConfig(Config):
    """AdamW, with a learning rate that rises over the first 30 % of the steps and falls to zero by a cosine."""

    network: UnetConfig = UnetConfig()
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.01, ge=0)
    num_epochs: int = Field(100, gt=0)
    global_batch_size: int = Field(8, gt=0)
    """Samples of one optimizer step, over all workers."""
    seed: int = 0
    num_workers: int = Field(1, gt=0)
    use_gpu: bool | None = None
    """A GPU for each worker; `false`: CPUs only; null: GPUs if the cluster has any or may start any."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """Leave CPUs of the cluster for the data pipeline, or it waits for ever."""

    @model_validator(mode="after")
    def _all_work(self) -> Self:
        if self.global_batch_size < self.num_workers:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} gives nothing to some of num_workers {self.num_workers}"
            )
        return self

    def resources_per_worker(self) -> dict[str, float]:
        """What one worker wants of its node."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1.0} if self.use_gpu else {})

    def resources(self) -> dict[str, float]:
        """CPUs and GPUs that the run asks of the cluster: workers, and the pipelines that feed them."""
        data = self.pipeline.actors_per_rank * self.pipeline.cpus_per_actor
        gpus = float(self.num_workers) if self.use_gpu else 0.0
        return {"CPU": self.num_workers * (self.cpus_per_worker + data), "GPU": gpus}


class FilterFittingConfig(FilterConfig):
    """A vessel filter, and what is learned of it on the training patients."""

    polarity: Literal["auto", "bright", "dark"] = "auto"
    """Whether vessels are brighter or darker than what is around them; `auto` takes what has the higher Dice."""


class BaselineConfig(ClusterConfig):
    """One baseline."""

    kind: Literal["unet", "vessel_filter"]
    name: str
    """Name of the model, shown in every result."""
    data_uri: Uri
    """Prepared data set."""
    out: Uri
    """Folder of the model."""
    unet: UnetTrainingConfig = Field(default_factory=UnetTrainingConfig)
    vessel_filter: FilterFittingConfig = Field(default_factory=FilterFittingConfig)

    @model_validator(mode="after")
    def _keys_are_of_this_kind(self) -> Self:
        if other := (self.model_fields_set & {"unet", "vessel_filter"}) - {self.kind}:
            raise ValueError(f"kind is '{self.kind}', so the keys below {', '.join(other)} have no effect: remove them")
        return self
