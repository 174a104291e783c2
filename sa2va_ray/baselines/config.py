"""BaselineConfig: what `jobs.baseline` takes."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from sa2va_ray.cluster.config import ClusterConfig, WorkersConfig
from sa2va_ray.config import Config, Seed
from sa2va_ray.data.config import PipelineConfig
from sa2va_ray.models.baselines.config import FilterConfig, UnetConfig
from sa2va_ray.storage import KeptUri, Uri

BaselineKind = Literal["unet", "vessel_filter", "nnunet"]
"""Each has its settings under a key of its own name."""


class UnetTrainingConfig(WorkersConfig):
    """AdamW, with a learning rate that rises over the first 30 % of the steps and falls to zero by a cosine."""

    network: UnetConfig = UnetConfig()
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    lr: float = Field(2e-3, gt=0, le=1)
    """Peak learning rate."""
    weight_decay: float = Field(0.01, ge=0, le=10)
    """AdamW's: each step takes off `lr` times this share of a weight."""
    num_epochs: int = Field(100, gt=0, le=100_000)
    """How many times each sample is trained on."""
    global_batch_size: int = Field(8, gt=0, le=2**16)
    """Samples of one optimizer step, over all workers."""
    seed: Seed = 0
    """Of the first weights, the order of the samples and their augmentation."""

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


class NnunetTrainingConfig(Config):
    """nnU-Net plans by itself: network, sizes of patch and batch, augmentation, SGD whose learning rate falls from 0.01
    to zero. One task trains it."""

    num_epochs: int = Field(1000, gt=0, le=100_000)
    """nnU-Net's own is 1000."""
    steps_per_epoch: int = Field(250, gt=0, le=100_000)
    """nnU-Net's own are 250, however many images there are."""
    gpu_memory_gb: float = Field(8.0, gt=0, le=1000)
    """The planned patch and batch fit on a GPU of this memory, in GB; nnU-Net's own is 8. A smaller one makes smaller
    patches, for a CPU."""
    use_gpu: bool | None = None
    """`false`: CPUs only; null: a GPU if the cluster has any or may start any."""
    num_cpus: int = Field(4, gt=0, le=4096)
    """CPUs of the task. With a GPU, all but one of them augment images; on CPUs, all of them compute."""

    def resources(self) -> dict[str, float]:
        """What the task wants of one node."""
        return {"CPU": float(self.num_cpus)} | ({"GPU": 1.0} if self.use_gpu else {})


class BaselineConfig(ClusterConfig):
    """One baseline."""

    kind: BaselineKind
    """Which baseline; its settings stand in the group of that name."""
    name: str
    """Name of the model, shown in every result."""
    data_uri: Uri
    """Prepared data set."""
    out: KeptUri
    """Folder of the model."""
    unet: UnetTrainingConfig = Field(default_factory=UnetTrainingConfig)
    vessel_filter: FilterFittingConfig = Field(default_factory=FilterFittingConfig)
    nnunet: NnunetTrainingConfig = Field(default_factory=NnunetTrainingConfig)

    @model_validator(mode="after")
    def _keys_are_of_this_kind(self) -> Self:
        if other := (self.model_fields_set & set(get_args(BaselineKind))) - {self.kind}:
            raise ValueError(f"kind is '{self.kind}', so the keys below {', '.join(other)} have no effect: remove them")
        return self
