"""Where a source lies: a local folder, a folder in a store, or a data set of the Hugging Face hub."""

import os
import re

import huggingface_hub
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging

from sa2va_ray import storage
from sa2va_ray.config import UserError

_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\S+))?", re.ASCII)


def locate(source: str) -> str:
    """URI of the folder, absolute. A data set `owner/name` or `owner/name@revision` is fetched into the hub's cache
    (`HF_HOME`), which all machines of the cluster must see.

    Raises:
        UserError: no such folder, or a data set that cannot be fetched. `source` is not repeated: it may hold names.
    """
    if source.startswith("s3://"):
        return source
    path = storage.resolve(source)[1]
    if os.path.isdir(path):
        return _snapshot(path)
    match = _HUB_ID.fullmatch(source)
    if not match:
        raise UserError(
            "`source` is not a folder that this machine sees. Check the path, and that its disk is mounted."
        )
    return _download(match["repo"], match["revision"])


def _download(repo: str, revision: str | None) -> str:
    disable_progress_bars()  # they show file names
    hub_logging.set_verbosity_error()
    try:
        return huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision)
    except (OSError, ValueError) as error:  # what the library raises for all that goes wrong
        raise UserError(
            "`source` is neither a folder that this machine sees nor a data set that could be fetched from the Hugging "
            f"Face hub ({type(error).__name__}). Check the path or the id, the revision, the network and, for a "
            "private data set, HF_TOKEN. Without network: download it elsewhere and give its folder."
        ) from None


def _snapshot(path: str) -> str:
    """The folder itself; for one of the hub's cache (`datasets--owner--name`) its files, which lie deeper."""
    snapshots = os.path.join(path, "snapshots")
    if not os.path.isdir(os.path.join(path, "blobs")) or not os.path.isdir(snapshots):
        return path
    revisions = os.listdir(snapshots)
    if len(revisions) != 1:
        raise UserError(
            f"`source` is a folder of the Hugging Face cache with {len(revisions)} revisions. Give the one that is "
            "meant, below `snapshots`."
        )
    return os.path.join(snapshots, revisions[0])
