"""A project of a Label Studio server: what it has, and what is put into it."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

from sa2va_ray.config import UserError
from sa2va_ray.label_studio.server import LabelStudio, LabelStudioError

_TASKS_PER_PAGE = 20
_MAX_PAGES = 100_000
_MAX_PROJECT_BYTES = 16 * 2**20
_MAX_PAGE_BYTES = 2**30  # a brush stroke of an image takes some 100 KB, as JSON
_MAX_REPLY_BYTES = 16 * 2**20


async def get_project(project: int, server: LabelStudio) -> dict[str, Any]:
    """What the server says of a project, `label_config` among it.

    Raises:
        LabelStudioError: as of `get_json`.
        UserError: no such project.
    """
    try:
        content = await server.get_json(server.config.address(f"/api/projects/{project}"), _MAX_PROJECT_BYTES)
    except LabelStudioError as error:
        if error.kind != "missing":
            raise
        raise UserError(
            f"Label Studio at {server.config.url} has no project {project} that the token's user may see. The number "
            "is the one in the address of the project's page."
        ) from None
    return _mapping(content, server)


async def pages(project: int, server: LabelStudio, fields: str = "all") -> AsyncIterator[list[dict[str, Any]]]:
    """The tasks of a project, page by page, images as they are stored.

    Args:
        fields: `all` with annotations and predictions; `task_only` with their numbers alone.

    Raises:
        LabelStudioError: as of `get_json`.
        UserError: a server of another kind.
    """
    num_seen = 0
    for page in range(1, _MAX_PAGES + 1):
        url = server.config.address(
            "/api/tasks", project=project, fields=fields, resolve_uri="false", page=page, page_size=_TASKS_PER_PAGE
        )
        content = _mapping(await server.get_json(url, _MAX_PAGE_BYTES), server)
        tasks, total = content.get("tasks"), content.get("total")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks) or type(total) is not int:
            raise _not_understood(server)
        yield tasks
        num_seen += len(tasks)
        if not tasks or num_seen >= total:
            return


async def import_tasks(project: int, server: LabelStudio, tasks: Sequence[dict[str, Any]]) -> list[int]:
    """Makes tasks, with their predictions; returns their numbers, in the same order."""
    url = server.config.address(f"/api/projects/{project}/import", return_task_ids="true")
    numbers = _mapping(await server.post(url, list(tasks), _MAX_REPLY_BYTES), server).get("task_ids")
    if not isinstance(numbers, list) or len(numbers) != len(tasks):
        raise _not_understood(server)
    return numbers


async def add_predictions(project: int, server: LabelStudio, predictions: Sequence[dict[str, Any]]) -> None:
    """Adds predictions to tasks that are there, each with the number of its `task`."""
    url = server.config.address(f"/api/projects/{project}/import/predictions")
    if _mapping(await server.post(url, list(predictions), _MAX_REPLY_BYTES), server).get("created") != len(predictions):
        raise _not_understood(server)


async def upload(project: int, server: LabelStudio, name: str, image: bytes) -> str:
    """Puts an image into the server's upload folder, without a task; returns what a task calls it."""
    form = aiohttp.FormData()
    form.add_field("file", image, filename=name)
    url = server.config.address(f"/api/projects/{project}/import", commit_to_project="false")
    found = _mapping(await server.post(url, form, _MAX_REPLY_BYTES), server).get("file_upload_ids")
    if not isinstance(found, list) or len(found) != 1:
        raise _not_understood(server)
    about = await server.get_json(server.config.address(f"/api/import/file-upload/{found[0]}"), _MAX_REPLY_BYTES)
    file = _mapping(about, server).get("file")
    if not isinstance(file, str):
        raise _not_understood(server)
    return f"/data/{file}"


def _mapping(content: Any, server: LabelStudio) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise _not_understood(server)
    return content


def _not_understood(server: LabelStudio) -> UserError:
    return UserError(
        f"What {server.config.url} answers is not as Label Studio 1.x answers. Check label_studio.url, and its version."
    )
