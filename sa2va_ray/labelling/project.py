"""The project of Label Studio that a queue goes into: which images it has already, and how the others get there."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sa2va_ray import storage
from sa2va_ray.cluster.streams import chunks
from sa2va_ray.config import UserError
from sa2va_ray.images.files import suffix_of
from sa2va_ray.label_studio import interface, project
from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.label_studio.prediction import PROVENANCE
from sa2va_ray.label_studio.server import LabelStudio
from sa2va_ray.labelling.ranking import Candidate
from sa2va_ray.labelling.tasks import Queued, Tasks
from sa2va_ray.prepare.sources.label_studio.uploads import upload_name
from sa2va_ray.telemetry import Progress

_TASKS_AT_A_TIME = 20


@dataclass(frozen=True)
class ExistingTask:
    """Attributes:
    id: of its image, where `jobs.label_queue` made the task.
    is_done: whether it has an annotation, or one that was skipped.
    versions: of the models that its predictions are by.
    """

    number: int
    image: str = field(repr=False)
    id: str | None
    is_done: bool
    versions: frozenset[str]


async def read_interface(number: int, server: LabelStudio) -> LabelConfig:
    """
    Raises:
        UserError: no such project, or one without a brush.
    """
    content = await project.get_project(number, server)
    try:
        return interface.read_label_config(str(content.get("label_config")))
    except ValueError as error:
        raise UserError(f"The project's labelling interface cannot be used: {error} {interface.CURE}") from None


async def read_tasks(number: int, server: LabelStudio, key: str) -> list[ExistingTask]:
    """
    Args:
        key: of a task's data, where its image is.
    """
    return [_existing(task, key) async for page in project.pages(number, server) for task in page]


def _existing(task: Mapping[str, Any], key: str) -> ExistingTask:
    data = task.get("data")
    data = data if isinstance(data, dict) else {}
    provenance, image = data.get(PROVENANCE), data.get(key)
    predictions = task.get("predictions")
    return ExistingTask(
        number=task["id"],
        image=image if isinstance(image, str) else "",
        id=provenance.get("id") if isinstance(provenance, dict) else None,
        is_done=bool(task.get("annotations")),
        versions=frozenset(str(each.get("model_version")) for each in predictions or () if isinstance(each, dict)),
    )


class Matching:
    """Which task of a project shows which image."""

    def __init__(self, tasks: Iterable[ExistingTask], candidates: Iterable[Candidate]):
        self._by_id: dict[str, ExistingTask] = {}
        self._by_image: dict[str | None, ExistingTask] = {}
        self._by_name: dict[str, list[ExistingTask]] = defaultdict(list)
        self._num_named = Counter(upload_name(candidate.item.source.name) for candidate in candidates)
        for task in tasks:
            if task.image:
                self._by_image[task.image] = task
            if task.id:
                self._by_id[task.id] = task
            else:
                self._by_name[upload_name(task.image)].append(task)
        self.num_unclear = 0
        """Images that were taken for none, since several images or tasks have their name."""

    def find(self, candidate: Candidate, address: str | None) -> ExistingTask | None:
        """By the hash that our own tasks carry, by the address, or by a file name that no other has.

        Args:
            address: how a task would call the image, where that is known beforehand.
        """
        if task := self._by_id.get(candidate.id) or self._by_image.get(address):
            return task
        name = upload_name(candidate.item.source.name)
        tasks = self._by_name.get(name, [])
        is_clear = len(tasks) == self._num_named[name] == 1
        self.num_unclear += bool(tasks) and not is_clear
        return tasks[0] if is_clear else None


async def push(
    number: int, server: LabelStudio, tasks: Tasks, queue: Sequence[Queued], versions: Mapping[int, frozenset[str]]
) -> dict[str, int]:
    """Makes the tasks that are not there, in the order of the queue, and gives the others the masks, unless they have
    those of this model. Returns id of each image -> number of its task.

    Args:
        versions: of each existing task.
    """
    new = [each for each in queue if each.candidate.task is None]
    old = {each.candidate.task: each for each in queue if each.candidate.task is not None}
    numbers = {each.candidate.id: task for task, each in old.items()}
    lacking = [task for task in old if tasks.model_version not in versions[task]]
    with Progress("push", len(queue)) as progress:
        for present in chunks(lacking, _TASKS_AT_A_TIME):
            found = [{"task": task, **tasks.prediction(old[task].candidate, old[task].rles)} for task in present]
            await project.add_predictions(number, server, found)
        progress.at(len(numbers))
        for part in chunks(new, _TASKS_AT_A_TIME):
            made = [tasks.task(each.candidate, await _address(number, server, each), each.rles) for each in part]
            imported = await project.import_tasks(number, server, made)
            numbers |= {each.candidate.id: task for each, task in zip(part, imported, strict=True)}
            progress.at(len(numbers))
    return numbers


async def _address(number: int, server: LabelStudio, each: Queued) -> str:
    """How a task calls the image; one that has no address is uploaded, under its id."""
    if each.address is not None:
        return each.address
    source = each.candidate.item.source
    try:
        image = storage.read_bytes(source.uri)
    except (OSError, storage.StorageError):  # which tell its path
        raise UserError(
            f"The image {each.candidate.id}, to be uploaded, cannot be read any more: it is gone, or its disk or store "
            "is away. Start the same command again: what is in the project already is not made twice."
        ) from None
    if hashlib.sha256(image).hexdigest() != each.candidate.item.source_sha256:
        raise UserError(
            f"The image {each.candidate.id}, to be uploaded, is another one by now: its file was replaced, and the "
            "masks are of the old one. Predict it, and start the same command again."
        )
    return await project.upload(number, server, f"{each.candidate.id}.{suffix_of(source.name)}", image)
