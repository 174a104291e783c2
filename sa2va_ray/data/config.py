"""What a config says of the data pipeline."""

from pydantic import Field

from sa2va_ray.cluster.config import MOST_PROCESSES, Cores
from sa2va_ray.config import ALWAYS, Config
from sa2va_ray.data.augment import AugmentConfig


class PipelineConfig(Config):
    """Resources of the pipeline of one rank, and how samples are varied."""

    augment: AugmentConfig = AugmentConfig()
    actors_per_rank: int = Field(2, gt=0, le=MOST_PROCESSES)
    """CPU actors that read, decode, augment and preprocess for one rank."""
    cpus_per_actor: Cores = 1.0
    """Cores that Ray sets aside for each of them."""
    object_store_mib: int = Field(192, gt=0, le=2**24)
    """How much of Ray's object store the pipeline of one rank may fill."""
    max_length: int = Field(4096, gt=0, le=2**20)
    """Longest sequence in tokens. A longer sample is never cut: it ends the run, before a worker starts where the data
    set's manifest tells of it."""
    skeleton_radius_px: int | None = Field(None, ge=0, le=64)
    """When set, each object comes with its skeleton, widened by so many pixels: the ground truth of skeleton recall."""
    max_bad_samples: int = Field(0, ge=0, le=ALWAYS)
    """Samples of an epoch, over all ranks, that may turn out not to be decodable; they are logged and left out. One
    more ends the run."""

    def cpus_per_rank(self) -> float:
        """CPUs that feed one rank."""
        return self.actors_per_rank * self.cpus_per_actor
