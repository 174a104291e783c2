"""TrainConfig: what `jobs.train` takes. Derived numbers are methods."""

from typing import Literal

from pydantic import Field, model_validator

from sa2va_ray.config import Config
from sa2va_ray.data.pipeline import PipelineConfig
from sa2va_ray.models.build import ModelConfig
from sa2va_ray.train.losses import LossConfig


class OptimConfig(Config):
    """AdamW with linear warm-up and a cosine to zero."""

    lr: float = Field(2e-5, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.05, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises."""


class TrainConfig(Config):
    """One training run."""

    name: str
    """Name of the run, a folder below `runs_uri`."""
    data_uri: str
    """Prepared data set."""
    runs_uri: str
    """Folder of runs. Checkpoints and TensorBoard files go to `runs_uri/name`."""

    model: ModelConfig
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)

    num_epochs: int = Field(1, gt=0)
    repeats: int = Field(10, gt=0)
    """How often each sample is in an epoch."""
    global_batch_size: int = Field(32, gt=0)
    """Samples of one optimizer step, over all workers."""
    micro_batch_size: int = Field(1, gt=0)
    """Most samples of one forward pass of one worker. Accumulation follows from it."""
    seed: int = 0

    num_workers: int = Field(4, gt=0)
    use_gpu: bool = True
    cpus_per_worker: float = Field(1.0, gt=0)
    """Leave CPUs of the cluster for the data pipeline, or it waits for ever."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 on a GPU and on CPUs with instructions for it, else fp32."""

    log_every_steps: int = Field(10, gt=0)
    save_every_steps: int = Field(500, gt=0)
    keep_checkpoints: int = Field(5, gt=0)

    @model_validator(mode="after")
    def _workers_share_a_batch(self) -> "TrainConfig":
        if self.global_batch_size < self.num_workers:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} gives nothing to some of num_workers {self.num_workers}"
            )
        return self

    def gradient_accumulation_steps(self) -> int:
        """Forward passes of a worker in a full step."""
        return -(-self.global_batch_size // (self.num_workers * self.micro_batch_size))

    def resources(self) -> dict[str, float]:
        """CPUs that the run asks of the cluster: workers, and the pipelines that feed them."""
        data = self.pipeline.actors_per_rank * self.pipeline.cpus_per_actor
        gpus = float(self.num_workers) if self.use_gpu else 0.0
        return {"CPU": self.num_workers * (self.cpus_per_worker + data), "GPU": gpus}
