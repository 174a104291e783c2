"""ServeArgs: the `args` of a Serve application in serve_configs/*.yaml."""

from pydantic import Field, model_validator

from sa2va_ray.config import Config


class ServeArgs(Config):
    """One model behind one endpoint."""

    model: str
    """Exported model."""
    default_prompt: str = "Please segment the blood vessels."
    """Asked where a request brings no prompt."""

    num_replicas: int = Field(1, gt=0)
    """Copies of the model."""
    cpus_per_replica: float = Field(1.0, gt=0)
    gpus_per_replica: float = Field(1.0, ge=0)
    max_batch_size: int = Field(8, gt=0)
    """Most images of one forward pass."""
    batch_wait_timeout_s: float = Field(0.01, ge=0)
    """How long a batch waits for more images after its first, s. About the time that one forward pass takes."""
    max_ongoing_requests: int = Field(16, gt=0)
    """Requests that a replica holds at a time, waiting for their batch or in it."""
    max_queued_requests: int = Field(64, gt=0)
    """Requests that wait for a replica; more are refused with 503."""

    max_upload_bytes: int = Field(32 * 2**20, gt=0)
    """Largest request body."""
    max_image_pixels: int = Field(64 * 10**6, gt=0)
    """Largest image, width times height, checked before it is decoded."""

    @model_validator(mode="after")
    def _batches_can_fill(self) -> "ServeArgs":
        if self.max_ongoing_requests < self.max_batch_size:
            raise ValueError(
                f"max_ongoing_requests {self.max_ongoing_requests} is less than max_batch_size {self.max_batch_size}: "
                "a batch could never fill"
            )
        return self
