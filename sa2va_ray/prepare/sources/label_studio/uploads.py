"""Names of images as Label Studio has them: in its upload folder, on a disk or in a bucket that it serves."""

import re
from typing import Any

from sa2va_ray.prepare.records import Rejected
from sa2va_ray.prepare.sources.folder import Folder

_UPLOAD = re.compile(r"upload[/\\]\d+[/\\]")
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")


def is_upload(path: Any) -> bool:
    """Whether a path is one of its upload folder, `/data/upload/3/1a2b3c4d-name.png`."""
    return isinstance(path, str) and _UPLOAD.search(path) is not None


def without_prefix(path: str) -> str:
    """Label Studio puts eight random digits before the name of an upload: others for each image of one patient."""
    folders, slash, name = path.rpartition("/")
    return folders + slash + _UPLOAD_PREFIX.sub("", name, count=1)


def find_image(folder: Folder, document: str, path: Any) -> str:
    """Name of the image that a file of Label Studio calls `path`, with the prefix of an upload or without it.

    Raises:
        Rejected: as `Folder.find_image_by_name` does.
    """
    try:
        return folder.find_image_by_name(document, path)
    except Rejected as rejected:
        if rejected.code not in ("image_missing", "path_outside"):
            raise
        return folder.find_image_by_name(document, without_prefix(path.replace("\\", "/")))
