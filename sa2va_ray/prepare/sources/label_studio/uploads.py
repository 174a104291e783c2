"""Names of images as Label Studio has them: in its upload folder, on a disk or in a bucket that it serves."""

import re
from functools import lru_cache
from typing import Any

from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources.folder import Folder, group_by

_UPLOAD = re.compile(r"upload[/\\]\d+[/\\]")
_NO_LETTER = re.compile(r"[^-\w.]")
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")


def is_upload(path: Any) -> bool:
    """Whether a path is one of its upload folder, `/data/upload/3/1a2b3c4d-name.png`."""
    return isinstance(path, str) and _UPLOAD.search(path) is not None


def without_prefix(path: str) -> str:
    """Label Studio puts eight random digits before the name of an upload: others for each image of one patient."""
    folders, slash, name = path.replace("\\", "/").rpartition("/")
    return folders + slash + _UPLOAD_PREFIX.sub("", name, count=1)


def upload_name(path: str) -> str:
    """Name of a file as Label Studio spells it when it is uploaded, without the digits that it puts before it."""
    return _spelt(without_prefix(path).rpartition("/")[2])


def _spelt(name: str) -> str:
    """Spaces are underscores, and what is no letter, digit, dot, hyphen or underscore is left out."""
    return _NO_LETTER.sub("", name.replace(" ", "_"))


def find_image(folder: Folder, document: str, path: Any) -> str:
    """Name of the image that a file of Label Studio calls `path`, with the prefix of an upload or without it, and as
    it was spelt before it was uploaded.

    Raises:
        Rejected: as `Folder.find_image_by_name` does.
    """
    spellings = [path, without_prefix(path)] if isinstance(path, str) else [path]
    for spelling in spellings:
        try:
            return folder.find_image_by_name(document, spelling)
        except Rejected as rejected:
            if rejected.code not in ("image_missing", "path_outside"):
                raise
            missing = rejected.with_traceback(None)
    uploaded = without_prefix(path).rpartition("/")[2]
    found = _by_spelling(folder).get(uploaded, [])
    if len(found) > 1:
        reason = f"{len(found)} image files may have had the name of this upload; which is meant is unknown."
        raise Rejected("image_ambiguous", reason)
    if not found:
        raise missing
    return found[0]


@lru_cache(maxsize=1)
def _by_spelling(folder: Folder) -> dict[str, list[str]]:
    """Images by the name that they would have as uploads."""
    return group_by((_spelt(name.rpartition("/")[2]), name) for name in folder.images)
