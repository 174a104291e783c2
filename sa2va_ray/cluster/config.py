"""What jobs that run on the cluster say of it in their configs."""

from typing import Annotated

from pydantic import Field

from sa2va_ray.config import Config

MOST_PROCESSES = 2**16
"""Of one kind in a job."""
Cores = Annotated[float, Field(ge=0.001, le=4096)]
"""Of one process. Ray counts them in ten-thousandths, and refuses what is less than one."""


class ClusterConfig(Config):
    """What every job that runs on the cluster says of it."""

    paths_are_shared: bool = False
    """Local paths lie on a disk that all nodes of the cluster have in the same place. Without it, a cluster of several
    nodes takes `s3://...` only."""


class WorkersConfig(Config):
    """The workers that Ray Train starts, in every job that trains."""

    num_workers: int = Field(1, gt=0, le=MOST_PROCESSES)
    """Processes that train, each with a GPU where GPUs are used."""
    use_gpu: bool | None = None
    """A GPU for each worker; `false`: CPUs only; null: GPUs if the cluster has any or may start any (on Kubernetes: if
    any is up)."""
    cpus_per_worker: Cores = 1.0
    """Leave CPUs of the cluster for the data pipeline, or it waits for ever."""

    def resources_per_worker(self) -> dict[str, float]:
        """What one worker wants of its node."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1.0} if self.use_gpu else {})

    def resources(self, cpus_beside: float) -> dict[str, float]:
        """What the job asks of the cluster: its workers, and `cpus_beside` each of them for the pipeline that feeds
        it."""
        gpus = float(self.num_workers) if self.use_gpu else 0.0
        return {"CPU": self.num_workers * (self.cpus_per_worker + cpus_beside), "GPU": gpus}


class PoolConfig(ClusterConfig):
    """The actors that hold a model, in every job that asks one."""

    num_actors: int | None = Field(None, gt=0, le=MOST_PROCESSES)
    """Predictors at work side by side: one for each GPU of the nodes that are up by default, else one."""
    batch_size: int = Field(4, gt=0, le=1024)
    """Images of one forward pass."""
    use_gpu: bool | None = None
    """A GPU for each actor; `false`: CPUs only; null: GPUs if the cluster has any or may start any (on Kubernetes: if
    any is up)."""
    cpus_per_actor: Cores = 1.0
    """CPUs that each actor holds."""
