"""FetchConfig: what `jobs.fetch` takes."""

from pydantic import Field

from sa2va_ray.config import Config
from sa2va_ray.storage import KeptUri


class FetchConfig(Config):
    """One model folder, or one file of it, that is brought to a store."""

    source: str = Field(min_length=1)
    """A model of the Hugging Face hub, `owner/name`; or a folder, local or s3://. What exists as a path is a path;
    `hf://owner/name` is the hub, `./owner/name` a path."""
    revision: str | None = None
    """Branch, tag or commit on the hub; `main` by default. A commit is the same one for ever."""
    file: str | None = Field(None, pattern=r"^[\w.-]+(/[\w.-]+)*$")
    """This file alone, such as `sam2_hiera_large.pt` of facebook/sam2-hiera-large."""
    only_config: bool = False
    """Only config.json and tokenizer, some MB: what `jobs.train plan=true` needs."""
    out: KeptUri
    """Folder to which the files go, local or s3://. Files of the same content that are there already stay."""
