"""What jobs that run on the cluster say of it in their configs."""

from pydantic import Field

from sa2va_ray.config import Config


class ClusterConfig(Config):
    """What every job that runs on the cluster says of it."""

    paths_are_shared: bool = False
    """Local paths lie on a disk that all nodes of the cluster have in the same place. Without it, a cluster of several
    nodes takes `s3://...` only."""


class PoolConfig(ClusterConfig):
    """The actors that hold a model, in every job that asks one."""

    num_actors: int | None = Field(None, gt=0)
    """Predictors at work side by side: one for each GPU of the nodes that are up by default, else one."""
    batch_size: int = Field(4, gt=0)
    """Images of one forward pass."""
    use_gpu: bool | None = None
    """A GPU for each actor; `false`: CPUs only; null: GPUs if the cluster has any or may start any."""
    cpus_per_actor: float = Field(1.0, gt=0)
    """CPUs that each actor holds."""
