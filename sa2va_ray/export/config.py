"""ExportConfig: what `jobs.export` takes."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sa2va_ray.config import Config
from sa2va_ray.storage import KeptUri, Uri, check_exists

NAME = re.compile(r"^\w[\w .+()-]{0,99}$")
"""What a model may be called."""


def _step_or_word(value: Any) -> Any:
    if value in ("best", "newest") or (isinstance(value, int) and value > 0):
        return value
    raise ValueError("give best, newest, or the number of a step")


Which = Annotated[int | Literal["best", "newest"], BeforeValidator(_step_or_word)]


class ExportConfig(Config):
    """One export (`checkpoint`, `out`); an exported model in 8 bits (`model`, `quantise`, `out`); or the checks on a
    folder that is there (`verify`)."""

    checkpoint: Uri | None = None
    """A checkpoint folder, or a run's folder, of which `which` says the checkpoint."""
    which: Which = "newest"
    """Of a run's folder: `newest`; `best`, by the run's own `best_metric`; or the number of a step that was saved."""
    model: Uri | None = None
    """An exported folder, to be quantised; its threshold and clean-up are kept."""
    quantise: Literal["int8"] | None = None
    """`int8`: the language model's linear layers in 8 bits (extra `quantise`), for GPUs with less memory. Nothing is
    exported unless its masks of two drawn images have IoU >= 0.995 with those of `model`, and its text is the same."""
    out: KeptUri | None = None
    """Folder of the exported model, local or s3://. An exported model there is replaced once the new one has passed."""
    name: str | None = Field(None, pattern=NAME.pattern)
    """Name of the model, shown in its card: letters, digits and ` .+()_-`, which mean nothing in Markdown. `sa2va` by
    default; of a quantised model, that of the full one and "int8"."""
    layout: Literal["own", "upstream"] = "own"
    """`upstream`: tensor names and config.json of upstream's code, which is not in the folder."""
    max_shard_gib: float = Field(4.0, gt=0, le=1024)
    """Largest weight file, GiB; one tensor may be larger."""
    hub_repo: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Hugging Face model `user/name` that the folder is sent to afterwards, with the token of HF_TOKEN or `hf auth`."""
    hub_private: bool = True
    """Whether `hub_repo`, where it is new, is seen by its owner only."""

    verify: Uri | None = None
    """An exported folder to be checked; nothing is exported."""

    def check_inputs(self) -> None:
        for uri in filter(None, (self.model, self.verify)):
            check_exists(uri)

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        given = [key for key in ("checkpoint", "model", "verify") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "give one of checkpoint=... (with out=...), model=... (with quantise=int8 and out=...) and verify=...; "
                f"you gave {' and '.join(given) or 'none'}"
            )
        if self.which != "newest" and self.checkpoint is None:
            raise ValueError("which=... chooses among the checkpoints of a run: give checkpoint=RUN")
        if (self.out is None) != (self.verify is not None):
            raise ValueError(
                "verify=... checks a folder that is there: leave out" if self.out else "out=... is missing"
            )
        if (self.quantise is None) != (self.model is None):
            raise ValueError(
                "quantise=int8 takes an exported model: export the checkpoint first, then give the folder as model=..."
                if self.quantise
                else "model=... is exported already: give quantise=int8, or verify=... to check it"
            )
        if self.quantise and self.layout != "own":
            raise ValueError("a quantised model has layout=own: upstream's code does not load it")
        return self
