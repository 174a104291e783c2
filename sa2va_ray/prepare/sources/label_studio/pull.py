"""`label_studio://PROJECT`: tasks, annotations and images of a project come from the server into a folder that lasts as
long as the job, and are read there as an export is."""

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from yarl import URL

from sa2va_ray.config import UserError
from sa2va_ray.label_studio.address import LabelStudioConfig
from sa2va_ray.label_studio.interface import data_key, parse_interface
from sa2va_ray.label_studio.prediction import PROVENANCE
from sa2va_ray.label_studio.project import get_project, pages
from sa2va_ray.label_studio.server import LabelStudio, LabelStudioError
from sa2va_ray.prepare.sources.label_studio.annotators import is_skipped
from sa2va_ray.telemetry import LOGGER

_MAX_IMAGE_BYTES = 2**30
_IMAGES_AT_A_TIME = 4


@contextmanager
def pulled(project: int, config: LabelStudioConfig) -> Iterator[str]:
    """A folder with the annotated tasks of a project, as an export, and their images. It is for this account alone, and
    is deleted at the end.

    Raises:
        UserError: no token, or one that is refused; no such project, or one that is not of one image a task; images
            that lie elsewhere; a server that is away, or does not keep to its bounds.
    """
    server = LabelStudio(config)
    with tempfile.TemporaryDirectory(prefix="sa2va_ray_") as folder:
        try:
            asyncio.run(_pull(project, server, Path(folder)))
        except LabelStudioError as error:
            raise UserError(f"{error} (label_studio.url is {config.url}.)") from None
        yield folder


async def _pull(project: int, server: LabelStudio, folder: Path) -> None:
    key = _image_key(await get_project(project, server))
    num_tasks = 0
    tasks: list[_Task] = []
    skipped: list[_Task] = []
    async for page in pages(project, server):
        num_tasks += len(page)
        for task in page:
            if task.get("annotations"):
                (skipped if is_skipped(task) else tasks).append(_Task.of(task, key, server.config))
    _check_addresses(tasks)
    LOGGER.info("label_studio: %d of %d tasks have annotations; their images are fetched", len(tasks), num_tasks)
    (folder / "tasks.json").write_text(json.dumps([task.entry for task in [*tasks, *skipped]]))
    turns = asyncio.Semaphore(_IMAGES_AT_A_TIME)
    once = {task.name: task for task in tasks}
    await asyncio.gather(*(_fetch(task, server, folder, turns) for task in once.values()))


def _image_key(project: dict[str, Any]) -> str:
    """The field of the tasks' data that the one Image tag of the labelling interface shows."""
    try:
        root = parse_interface(str(project.get("label_config")))
    except ValueError as error:
        raise UserError(f"The project's labelling interface cannot be read: {error}") from None
    tags = [tag for tag in root.iter() if tag.tag.lower() == "image"]
    key = data_key(tags[0]) if len(tags) == 1 else ""
    if not key or tags[0].get("valueList"):
        raise UserError(
            f"The project's labelling interface has {len(tags)} Image tag(s); one with a value such as $image is "
            "needed, since a sample is one image. Make a project of its own for each image."
        )
    return key


@dataclass(frozen=True)
class _Task:
    """Attributes:
    entry: as an export has it, its image in the folder.
    name: of the image in the folder.
    address: of the image; None where the server does not hold it.
    """

    entry: dict[str, Any]
    name: str
    address: URL | None

    @classmethod
    def of(cls, task: dict[str, Any], key: str, config: LabelStudioConfig) -> "_Task":
        data, number = task.get("data"), task.get("id")
        image = data.get(key) if isinstance(data, dict) else None
        address = config.image_address(image, number) if isinstance(image, str) and type(number) is int else None
        name = _name(image) if isinstance(image, str) else ""
        kept = {field: task.get(field) for field in ("id", "annotations", "predictions")}
        told = {PROVENANCE: data[PROVENANCE]} if isinstance(data, dict) and PROVENANCE in data else {}
        return cls({**kept, "data": {"image": name, **told}}, name, address if name else None)


def _name(image: str) -> str:
    """The path of an image as one below a folder: without the server, as `?d=` names it where it does."""
    address, _, query = image.partition("?")
    path = parse_qs(query).get("d", [unquote(address)])[0]
    parts = path.partition("://")[2] if "://" in path else path
    return "/".join(part for part in parts.split("/") if part not in ("", ".", ".."))


def _check_addresses(tasks: Sequence[_Task]) -> None:
    elsewhere = sum(task.address is None for task in tasks)
    if elsewhere:
        raise UserError(
            f"The images of {elsewhere} of {len(tasks)} annotated tasks are not held by the Label Studio at "
            "label_studio.url: they lie at other addresses, which are not asked. If that is the same server by another "
            "name, give that name as label_studio.url; else get the images another way, and give the folder with them "
            "and the project's export as JSON as `source`."
        )


async def _fetch(task: _Task, server: LabelStudio, folder: Path, turns: asyncio.Semaphore) -> None:
    """Where the server has lost the image it is missing in the folder, too, and told as that."""
    assert task.address
    async with turns:
        try:
            found = await server.get(task.address, _MAX_IMAGE_BYTES)
        except LabelStudioError as error:
            if error.kind == "missing":
                return
            raise
    if isinstance(found, URL):
        raise UserError(
            "Label Studio sends to another address for an image, as with links that it signs, and none but "
            "label_studio.url is asked. Turn off pre-signed URLs in the settings of the project's cloud storage: then "
            "Label Studio hands the files on itself."
        )
    path = folder / task.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found)
