"""ExportConfig: what `jobs.export` takes."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sa2va_ray.config import Config
from sa2va_ray.storage import Uri


class ExportConfig(Config):
    """One export (`checkpoint` and `out`), or the checks on a folder that is there (`verify`)."""

    checkpoint: Uri | None = None
    """A checkpoint folder, or a run's folder, which stands for its newest complete checkpoint."""
    out: Uri | None = None
    """Folder of the exported model, local or s3://. An exported model there is replaced once the new one has passed."""
    name: str = Field("sa2va", pattern=r"^\w[\w .+()-]{0,99}$")
    """Name of the model, shown in its card: letters, digits and ` .+()_-`, which mean nothing in Markdown."""
    layout: Literal["own", "upstream"] = "own"
    """`upstream`: tensor names and config.json of upstream's code, which is not in the folder."""
    max_shard_gib: float = Field(4.0, gt=0)
    """Largest weight file, GiB; one tensor may be larger."""
    hub_repo: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Hugging Face model `user/name` that the folder is sent to afterwards, with the token of HF_TOKEN or `hf auth`."""
    hub_private: bool = True
    """Whether `hub_repo`, where it is new, is seen by its owner only."""

    verify: Uri | None = None
    """An exported folder to be checked; nothing is exported."""

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        if self.verify is None and (self.checkpoint is None or self.out is None):
            raise ValueError("give checkpoint=... and out=..., or verify=... alone")
        if self.verify is not None and (self.checkpoint is not None or self.out is not None):
            raise ValueError("verify=... checks a folder that is there: leave checkpoint and out")
        return self
