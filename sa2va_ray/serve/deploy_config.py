"""DeployConfig: what `jobs.deploy` takes, which is a file of serve_configs/."""

from typing import Any

from pydantic import Field

from sa2va_ray.config import Config


class DeployConfig(Config):
    """A Serve file, with Ray Serve's own keys, and how long its deployment may take."""

    applications: list[dict[str, Any]] = Field(min_length=1)
    """Ray Serve's: name, route_prefix, import_path, args, deployments. One that runs and is not here is deleted."""
    proxy_location: str | None = None
    """Ray Serve's: which nodes listen, HeadOnly or EveryNode."""
    http_options: dict[str, Any] | None = None
    """Ray Serve's: host, port and others. They are taken when Serve starts, and stay until `serve shutdown`."""
    grpc_options: dict[str, Any] | None = None
    """Ray Serve's."""
    logging_config: dict[str, Any] | None = None
    """Ray Serve's."""
    target_capacity: float | None = Field(None, ge=0, le=100)
    """Ray Serve's: share of the replicas that are wanted, %."""

    wait_s: float = Field(1800.0, gt=0, le=7 * 86_400)
    """How long is waited for the replicas, s. A deployment that takes longer goes on."""

    def serve_values(self) -> dict[str, Any]:
        """The keys of Serve that were given."""
        return self.model_dump(exclude_unset=True, exclude={"wait_s"})
