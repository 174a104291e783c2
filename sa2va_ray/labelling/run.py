"""The label_queue job: predictions in, a queue of tasks for Label Studio out.

1. bring predictions and images together, and say whose each image is;
2. leave out what has annotations in the project;
3. rank, and draw the first of them on the cluster;
4. write the tasks and put them into the project, then write the page, which tells their numbers.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

from sa2va_ray import __version__, storage
from sa2va_ray.cluster.resources import check_paths, connect
from sa2va_ray.config import UserError
from sa2va_ray.hub import is_on_hub
from sa2va_ray.label_studio.address import project_number
from sa2va_ray.label_studio.interface import LabelConfig
from sa2va_ray.label_studio.server import LabelStudio, LabelStudioError
from sa2va_ray.labelling import project
from sa2va_ray.labelling.candidates import find_candidates, read_predictions
from sa2va_ray.labelling.config import LabelQueueConfig
from sa2va_ray.labelling.drawing import draw
from sa2va_ray.labelling.page import NUM_PICTURES, render_queue, to_rows
from sa2va_ray.labelling.project import ExistingTask
from sa2va_ray.labelling.ranking import Candidate, rank
from sa2va_ray.labelling.tasks import Queued, Tasks, choose_label, default_interface
from sa2va_ray.predict.job.sources import find_sources
from sa2va_ray.predict.job.stages import list_images
from sa2va_ray.telemetry import LOGGER, configure_logging, log_result

T = TypeVar("T")

TASKS, QUEUE, PAGE = "tasks.json", "queue.json", "queue.html"


@dataclass(frozen=True)
class _Project:
    """The project that the queue goes into, as it was found."""

    number: int
    server: LabelStudio
    interface: LabelConfig
    tasks: list[ExistingTask]


def label_queue(config: LabelQueueConfig) -> dict[str, int]:
    """Writes the queue to `config.out`, and puts it into the project where there is one.

    Returns:
        counts: `queued`, `patients`, and `left_out` of the images in `source`.

    Raises:
        UserError: predictions, images, project or storage cannot be used.
    """
    configure_logging()
    storage.check_outside(config.out, {"source": config.source, "predictions": config.predictions})
    storage.check_writable(config.out)
    predictions = read_predictions(config.predictions)
    found = _ask(_open(config), config) if config.project else None
    interface = found.interface if found else default_interface(config.label, predictions.prompt)
    tasks = Tasks(interface, choose_label(interface, config.label, predictions.prompt), predictions)
    sources = find_sources(config.source)
    connect()
    check_paths(config, source=None if is_on_hub(config.source) else config.source, out=config.out)
    candidates, left_out = find_candidates(list_images(sources), predictions, config.patient_pattern)
    if found:
        candidates = _match(candidates, found, left_out, config)
    queue, drawn = _queue(candidates, config)
    left_out[f"for another time: the queue takes {config.max_tasks} (max_tasks)"] += len(candidates) - len(queue)
    facts = _facts(tasks, left_out, config)
    # Of images that are to be uploaded there is none.
    named = [tasks.task(each.candidate, each.address, each.rles) for each in queue if each.address is not None]
    storage.write_bytes(storage.join(config.out, TASKS), _to_json(named))
    rows = to_rows(queue, _ask(_push(found, tasks, queue), config) if found and queue else {})
    storage.write_bytes(storage.join(config.out, PAGE), render_queue(rows, drawn, facts))
    storage.write_bytes(storage.join(config.out, QUEUE), _to_json({**facts, "images": rows}))
    return _summarize(queue, facts, config)


def _ask(asked: Coroutine[Any, Any, T], config: LabelQueueConfig) -> T:
    try:
        return asyncio.run(asked)
    except LabelStudioError as error:
        where = f" (label_studio.url is {config.label_studio.url}.)" if config.label_studio else ""
        raise UserError(f"{error}{where}") from None


async def _open(config: LabelQueueConfig) -> _Project:
    number = project_number(config.project or "")
    assert number is not None
    assert config.label_studio is not None
    server = LabelStudio(config.label_studio)
    interface = await project.read_interface(number, server)
    return _Project(number, server, interface, await project.read_tasks(number, server, interface.data_key))


def _match(
    candidates: Sequence[Candidate], found: _Project, left_out: Counter[str], config: LabelQueueConfig
) -> list[Candidate]:
    """Those that have no annotation in the project, each with its task where it has one."""
    matching = project.Matching(found.tasks, candidates)
    left = []
    for candidate in candidates:
        task = matching.find(candidate, _address(candidate, config))
        if task and task.is_done:
            left_out["with an annotation in the project, or skipped there"] += 1
        else:
            left.append(replace(candidate, task=task.number if task else None))
    if matching.num_unclear:
        LOGGER.warning(
            "%d images have the file name of tasks of the project, and others have it, too: they may come twice there.",
            matching.num_unclear,
        )
    return left


def _queue(candidates: Sequence[Candidate], config: LabelQueueConfig) -> tuple[list[Queued], dict[str, dict[str, Any]]]:
    """The first images in their order, and what was drawn of each."""
    ranked = rank(candidates)[: config.max_tasks]
    addresses = [_address(candidate, config) for candidate in ranked]
    if config.project is None and None in addresses:
        raise UserError(
            "Label Studio has no address for images on a disk. Say with image_url how it finds them, as "
            "image_url='/data/local-files/?d=FOLDER/{name}', or give project=label_studio://NUMBER, and they are "
            "uploaded."
        )
    drawn = draw(ranked, NUM_PICTURES, config.max_pixels)
    queue = [
        Queued(candidate, address, [list(rle) for rle in drawn[candidate.id]["rles"]])
        for candidate, address in zip(ranked, addresses, strict=True)
    ]
    return queue, drawn


def _address(candidate: Candidate, config: LabelQueueConfig) -> str | None:
    """How Label Studio finds an image; None for one that has to be uploaded."""
    source = candidate.item.source
    if config.image_url is not None:
        is_address = config.image_url.startswith(("/", "http://", "https://"))  # in which some signs mean something
        return config.image_url.replace("{name}", quote(source.name) if is_address else source.name)
    return None if storage.is_local(source.uri) else source.uri


async def _push(found: _Project, tasks: Tasks, queue: Sequence[Queued]) -> dict[str, int]:
    versions = {task.number: task.versions for task in found.tasks}
    return await project.push(found.number, found.server, tasks, queue, versions)


def _facts(tasks: Tasks, left_out: Mapping[str, int], config: LabelQueueConfig) -> dict[str, Any]:
    """How the queue was made, without any name of the source."""
    predictions = tasks.predictions
    return {
        "model": predictions.model,
        "model_sha256": predictions.model_sha256,
        "model_version": tasks.model_version,
        "predictions_sha256": predictions.sha256,
        "prompt": predictions.prompt,
        "label": tasks.label,
        "project": project_number(config.project or ""),
        "num_left_out": {reason: count for reason, count in left_out.items() if count},
        "version": __version__,
    }


def _summarize(queue: Sequence[Queued], facts: Mapping[str, Any], config: LabelQueueConfig) -> dict[str, int]:
    left_out = facts["num_left_out"]
    for reason, count in left_out.items():
        LOGGER.info("left out: %d %s", count, reason)
    num_patients = len({each.candidate.patient for each in queue})
    LOGGER.info("queued: %d images of %d patients, by %s", len(queue), num_patients, facts["model_version"])
    source = config.project or "FOLDER_WITH_THE_EXPORT"
    server = [f"label_studio.url={config.label_studio.url}"] if config.label_studio else []
    page = storage.join(config.out, PAGE)
    log_result(config.out, "jobs.prepare", f"source={source}", *server, "out=DATA", shown=page)
    return {"queued": len(queue), "patients": num_patients, "left_out": sum(left_out.values())}


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
