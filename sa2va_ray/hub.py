"""What a job's key `source` names, wherever it lies: a path, a URI, or a data set of the Hugging Face hub.

A data set is written `hf://datasets/owner/name[@revision][/path]`, and everything else is a path: a folder that is
misspelt, or on another machine, must not be asked for at the hub by its name, which may be a patient's.
"""

import os
import re

import huggingface_hub
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging

from sa2va_ray import storage
from sa2va_ray.config import UserError

HOW_WRITTEN = "A data set of the Hugging Face hub is written hf://datasets/owner/name[@revision][/path]."

_SCHEME = "hf://"
_URI = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<inner>.*))?")


def is_on_hub(source: str) -> bool:
    """Whether `source` means a data set of the hub."""
    return source.startswith(_SCHEME)


def locate(source: str) -> str:
    """The URI of what `source` names, a path made absolute. A data set is fetched into the hub's cache (`HF_HOME`),
    which all machines of the cluster must see; for a folder of that cache its files are meant, which lie deeper in it.

    Raises:
        UserError: a data set that cannot be fetched. `source` is not repeated: it may hold names of patients.
    """
    if not is_on_hub(source):
        return _files_of_cache(storage.absolute(source))
    match = _URI.fullmatch(source)
    if not match:
        raise UserError(f"`source` names no data set. {HOW_WRITTEN}")
    folder = _download(match["repo"], match["revision"])
    return storage.join(folder, match["inner"]) if match["inner"] else folder


def _download(repo: str, revision: str | None) -> str:
    disable_progress_bars()  # they show file names
    hub_logging.set_verbosity_error()
    try:
        return huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision)
    except Exception as error:  # its own, and those of the HTTP library that it uses, httpx or another
        raise UserError(
            f"`source` could not be fetched from the Hugging Face hub ({type(error).__name__}). Check owner, name "
            "and revision, the network and, for a private data set, HF_TOKEN. Without network: download it elsewhere "
            "and give its folder."
        ) from None


def _files_of_cache(uri: str) -> str:
    """The files of a folder of the hub's cache, `datasets--owner--name`; any other URI as it is."""
    snapshots = os.path.join(uri, "snapshots")
    if not os.path.isdir(os.path.join(uri, "blobs")) or not os.path.isdir(snapshots):
        return uri
    revisions = os.listdir(snapshots)
    if len(revisions) != 1:
        raise UserError(
            f"`source` is a folder of the Hugging Face cache with {len(revisions)} revisions. Give the one that is "
            "meant, below `snapshots`."
        )
    return os.path.join(snapshots, revisions[0])
