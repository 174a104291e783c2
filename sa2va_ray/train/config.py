"""TrainConfig: what `jobs.train` takes. Derived numbers are methods."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sa2va_ray.cluster.config import MOST_PROCESSES, ClusterConfig, WorkersConfig
from sa2va_ray.config import ALWAYS, Config, Seed
from sa2va_ray.data.config import PipelineConfig
from sa2va_ray.metrics import CATALOGUE, VALIDATION_METRICS
from sa2va_ray.models.config import ModelConfig
from sa2va_ray.storage import KeptUri, Uri
from sa2va_ray.train.watch.trackers.tracker import TrackerName

MaskSize = Literal["truth", "logits", 512, 1024]
MOST_SAMPLES = 2**16
"""Of one step, and so of one pass."""
_MOST_WEIGHT = 1e4


class LossConfig(Config):
    """Weights of the parts; the total is their weighted sum. Each part of `OBJECT_LOSSES`
    (`train/losses.py`) has its own in `NAME_weight`."""

    mask_weight: float = Field(3.0, ge=0, le=_MOST_WEIGHT)
    """Weight of the binary cross entropy at the sampled points."""
    dice_weight: float = Field(1.0, ge=0, le=_MOST_WEIGHT)
    """Weight of 1 - soft Dice at the sampled points."""
    num_points: int = Field(12_544, gt=0, le=2**20)
    """Points per mask at which cross entropy and Dice are taken."""
    mask_size: MaskSize = "truth"
    """Largest height and width of the true masks and skeletons, in pixels: their own, that of the mask logits, 512 or
    1024. Larger ones are shrunk by area, so that thin vessels become partly true pixels and do not vanish. The logits
    are never shrunk to it, but read between their pixels."""
    skeleton_recall_weight: float = Field(0.0, ge=0, le=_MOST_WEIGHT)
    """Weight of the share of the widened skeletons that is missed. 0: off, and no skeletons are needed."""
    cldice_weight: float = Field(0.0, ge=0, le=_MOST_WEIGHT)
    """Weight of 1 - soft clDice. 0: off."""
    cldice_size: int = Field(512, gt=0, le=4096)
    """Largest height and width of the maps whose skeletons clDice takes, in pixels; larger masks are shrunk by area."""
    cldice_iterations: int = Field(6, gt=0, le=128)
    """Rounds of thinning: k find the centre of vessels up to 2k pixels wide. Their memory until the backward pass is
    8 (k + 1) bytes per pixel and object, and 56 per pixel of up to eight objects: 59 MB for two at the defaults."""

    def weights(self) -> dict[str, float]:
        """The weight of every part by its name. A part whose weight is 0 by default is left out where it is 0."""
        fields = {name: field for name, field in type(self).model_fields.items() if name.endswith("_weight")}
        weights = {name: getattr(self, name) for name, field in fields.items() if field.default or getattr(self, name)}
        return {"language": 1.0} | {name.removesuffix("_weight"): weight for name, weight in weights.items()}


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config):
    """AdamW with linear warm-up and a cosine to zero."""

    lr: float = Field(2e-5, gt=0, le=1)
    """Peak learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's: how slowly its means of the gradient and of its square forget."""
    weight_decay: float = Field(0.05, ge=0, le=10)
    """AdamW's: each step takes off `lr` times this share of a weight."""
    max_grad_norm: float = Field(1.0, gt=0, le=ALWAYS)
    """A gradient of a greater norm, over all trained weights, is scaled down to it."""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises."""


class ValidationConfig(Config):
    """What is measured on the validation patients while training goes on, between two steps, on all workers."""

    every_steps: int = Field(500, ge=0, le=ALWAYS)
    """0: never."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability from which on a pixel counts as vessel."""
    num_drawn: int = Field(3, ge=0, le=100)
    """Images that are drawn each time, the same ones."""
    max_new_tokens: int = Field(32, gt=0, le=4096)
    """An answer is cut off behind this many; trained ones have ten. Under ZeRO-3 each token takes all weights over the
    network once."""


def _number_or_auto(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and 0 < value <= MOST_SAMPLES):
        return value
    raise ValueError(f"give a whole number from 1 to {MOST_SAMPLES}, or auto")


MicroBatchSize = Annotated[int | Literal["auto"], BeforeValidator(_number_or_auto)]


class TrainConfig(WorkersConfig, ClusterConfig):
    """One training run."""

    name: str = Field(pattern=r"^[ .()\[\]+=,@-]*\w[\w .()\[\]+=,@-]*$", max_length=128)
    """Name of the run, a folder below `runs_uri`: letters, digits, blanks and `._-+=,@()[]`."""
    data_uri: Uri
    """Prepared data set."""
    runs_uri: KeptUri
    """Folder of runs. Checkpoints, curves and the page of the run go to `runs_uri/name`."""

    model: ModelConfig
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)

    num_epochs: int = Field(1, gt=0, le=100_000)
    """How many epochs are trained."""
    repeats: int = Field(10, gt=0, le=2**20)
    """How many times each sample is in an epoch."""
    global_batch_size: int = Field(32, gt=0, le=MOST_SAMPLES)
    """Samples of one optimizer step, over all workers."""
    micro_batch_size: MicroBatchSize = 1
    """Most samples of one forward pass of one worker. Accumulation follows from it. `auto`: as many as the memory plan
    finds room for on the cluster's smallest GPU, halved if they do not fit after all (each time one of `max_failures`);
    1 where no GPU is used."""
    seed: Seed = 0
    """Of the order of the samples, their augmentation and dropout."""

    num_workers: int = Field(4, gt=0, le=MOST_PROCESSES)
    """Processes that train, each with a GPU where GPUs are used."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 on a GPU and on CPUs with instructions for it, else fp32."""

    log_every_steps: int = Field(10, gt=0, le=ALWAYS)
    """Optimizer steps from one line of the log to the next."""
    save_every_steps: int = Field(500, gt=0, le=ALWAYS)
    """Optimizer steps from one checkpoint to the next; the end of the run is saved, too."""
    keep_checkpoints: int = Field(5, gt=0, le=ALWAYS)
    """Newest checkpoints to keep."""
    keep_best: int = Field(1, ge=0, le=ALWAYS)
    """Checkpoints to keep beside them: those with the highest `best_metric`, by the newest validation before each.
    Where `save_every_steps` is a multiple of `validation.every_steps`, that was of the same weights."""
    best_metric: str = "val/dice"
    """One of the validation's scores, of which more is better: `val/dice`, `val/cldice` ..., or `val/seg_share`."""
    validation: ValidationConfig = Field(default_factory=ValidationConfig)

    resume: Literal["auto", "never"] = "auto"
    """`auto`: go on from the run's newest valid checkpoint, if it has one. `never`: no run of this name may exist."""
    plan: bool = False
    """Only print what the run would take: parameters, memory, steps, checkpoint size. Of the base it reads config.json
    and the tokenizer, no weights; where the data set is not there yet, the plan is for `pipeline.max_length`."""
    force: bool = False
    """Start, with a warning, although the plan does not fit into the GPUs' memory. A plan is an estimate, for the
    largest sample in every place of a micro batch: a run that it finds a little too large may fit."""
    min_workers: int | None = Field(None, gt=0)
    """When set, the run goes on with fewer workers, down to this many, while nodes are missing."""
    max_failures: int = Field(3, ge=0, le=ALWAYS)
    """How often lost workers are replaced before the run ends. Each time it goes on from its newest checkpoint."""
    storage_patience_s: float = Field(600.0, gt=0, le=7 * 86_400)
    """How long a checkpoint waits for a store that does not answer before the run ends."""
    max_skipped_samples: int = Field(32, ge=0, le=ALWAYS)
    """Samples that a run may leave out because the loss of their micro step is not finite; with one more it ends."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where curves go. MLflow is set up by its own environment variables (`MLFLOW_TRACKING_URI`, extra `mlflow`)."""

    strategy: Literal["auto", "zero2", "zero3", "zero3_offload"] = "zero3"
    """What DeepSpeed shards over the workers: gradients and optimizer state (`zero2`), the weights too (`zero3`), or
    all of it on the CPU (`zero3_offload`). `auto`: the first of these that the memory plan finds room for on the
    cluster's smallest GPU."""
    activation_checkpointing: bool = False
    """Keep only the inputs of the language model's layers, and of SAM 2's where they train, and compute the rest again
    in the backward pass: a third more time, a fraction of the memory."""
    compile_layers: bool = False
    """torch.compile of the layers of the language model and the encoders. The first step then takes a minute or two
    longer. Dropout draws other numbers than without."""

    @field_validator("best_metric")
    @classmethod
    def _is_measured(cls, name: str) -> str:
        known = [f"val/{each}" for each in VALIDATION_METRICS if CATALOGUE[each].higher_is_better] + ["val/seg_share"]
        if name not in known:
            raise ValueError(
                f"{name!r} is no score whose highest value is the best one; these are measured in validation: "
                f"{', '.join(known)}"
            )
        return name

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainConfig":
        if self.global_batch_size < self.num_workers:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} gives nothing to some of num_workers {self.num_workers}"
            )
        if self.loss.skeleton_recall_weight and self.pipeline.skeleton_radius_px is None:
            raise ValueError("loss.skeleton_recall_weight needs skeletons: set pipeline.skeleton_radius_px (2, say)")
        if self.min_workers and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}")
        return self

    def gradient_accumulation_steps(self) -> int:
        """Forward passes of a worker in a full step."""
        return -(-self.global_batch_size // (self.num_workers * self.samples_of_a_pass))

    @property
    def samples_of_a_pass(self) -> int:
        """`micro_batch_size` as a number, which the plan of the run puts in the place of `auto`."""
        assert self.micro_batch_size != "auto", "the plan has not been made"
        return self.micro_batch_size
