"""What a config says of a model: where its weights come from, and which of its parts train."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sa2va_ray.config import Config, Seed
from sa2va_ray.models.parts import ENCODERS, Part
from sa2va_ray.storage import Uri


class TrainableConfig(Config):
    """Which parts train. What is not named here is frozen: the prompt encoder and the memory parts of SAM 2."""

    lora_rank: int = Field(64, gt=0, le=4096)
    """Rank of the language model's adapters, and of those of an encoder that is `lora`."""
    lora_alpha: int = Field(128, gt=0, le=2**20)
    """An adapter's output is scaled by alpha / rank."""
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of an adapter's inputs that are left out at random."""
    embeddings: Literal["new_tokens", "all"] = "new_tokens"
    """`new_tokens`: only the rows of [SEG] and its four fellows, in the embedding and in the LM head."""
    projector: bool = True
    """What makes image tokens of the vision encoder's output."""
    mask_decoder: bool = True
    """SAM 2's mask decoder."""
    vision_encoder: Literal["frozen", "lora"] = "frozen"
    """InternVL3's vision encoder, which the language model sees with."""
    image_encoder: Literal["frozen", "lora", "full"] = "frozen"
    """SAM 2's image encoder. `full` is for models without pretraining."""

    def encoders(self, mode: Literal["frozen", "lora", "full"]) -> list[Part]:
        """Parts of `ENCODERS` that train in this way."""
        return [part for key, part in ENCODERS.items() if getattr(self, key) == mode]


class BaseConfig(Config):
    """Weights that a model starts from; arguments of `load_model`, which says what came from where."""

    source: Uri
    """Folder of an InternVL3 base, of an upstream Sa2VA, or one that we exported."""
    sam2_checkpoint: Uri | None = None
    """SAM 2.0's own `.pt`; an InternVL3 base needs it."""
    initialise_from: Uri | None = None
    """A Sa2VA of any size; what fits a base by name and shape is taken from it."""
    grounding_config: dict[str, Any] | None = None
    """Sizes of SAM 2 for folders that do not give them; hiera-large by default."""


class ModelConfig(Config):
    """Which Sa2VA is built, and which of its parts train. Either `base` or `architecture` is given."""

    base: BaseConfig | None = None
    architecture: dict[str, Any] | None = None
    """For a model with random weights: arguments of `Sa2VAConfig`."""

    init_seed: Seed = 0
    """Seed of what is newly initialised."""

    trainable: TrainableConfig = Field(default_factory=TrainableConfig)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.base is None) == (self.architecture is None):
            raise ValueError("give either base (weights to start from) or architecture (random weights)")
        return self
