"""Where a node keeps what was compiled for its GPUs. Code is loaded from there, so nobody else may write to it."""

import os
import stat
import tempfile
from pathlib import Path

from sa2va_ray.telemetry import LOGGER

_FOLDER = "compiled"


def compile_cache(cache_dir: str) -> str:
    """A folder in `cache_dir`; one for this process alone where other users of the machine could write there."""
    folder = Path(cache_dir).absolute() / _FOLDER
    for each in reversed([folder, *folder.parents]):
        each.mkdir(mode=0o700, exist_ok=True)
    folder = folder.resolve()
    for each in (folder, *folder.parents):
        if not _is_safe(each.stat()):
            LOGGER.warning(
                "other users can write to %s, so nothing compiled is kept there, and each start compiles anew. Set "
                "cache_dir to a folder of your own.",
                each,
            )
            return tempfile.mkdtemp(prefix="sa2va-compiled-")
    return str(folder)


def _is_safe(facts: os.stat_result) -> bool:
    """Whether only root and this user can put something there, or, as in /tmp, nobody can replace what is another's."""
    is_shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not facts.st_mode & stat.S_ISVTX
    return facts.st_uid in (0, os.geteuid()) and not is_shared
