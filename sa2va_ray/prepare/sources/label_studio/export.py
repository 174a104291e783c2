"""The documents of Label Studio: which JSON is one, and an item for each image in it."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from sa2va_ray.images.files import IMAGE_KINDS, kind_of
from sa2va_ray.prepare.records import Finding, Label, Rejected, SeveralLabels
from sa2va_ray.prepare.sources.folder import Folder
from sa2va_ray.prepare.sources.items import DocumentLayout, Item, Skipped, SourceOptions, build_item
from sa2va_ray.prepare.sources.label_studio import provenance
from sa2va_ray.prepare.sources.label_studio.annotation import Result, is_labels, to_results, unknown_kind
from sa2va_ray.prepare.sources.label_studio.annotators import annotate_all, is_skipped, is_submitted
from sa2va_ray.prepare.sources.label_studio.regions import kind_of_value
from sa2va_ray.prepare.sources.label_studio.uploads import find_image, is_upload, without_prefix
from sa2va_ray.prepare.sources.shapes import to_whole, wrong_type

LAYOUT = "label_studio"
_MIN_KEYS = frozenset({"annotator", "annotation_id"})
_MIN_OWN_KEYS = _MIN_KEYS | {"id", "created_at", "updated_at", "lead_time", "agreement"}


def is_label_studio(content: Any) -> bool:
    """Also what is its own in a form that is not read, so that it can be said."""
    entries = content if isinstance(content, list) else [content]
    return any(_is_task(entry) or _is_min(entry) or _is_other_form(entry) for entry in entries)


def read_label_studio(folder: Folder, document: str, content: Any, options: SourceOptions) -> Iterator[Item]:
    """An item for each task."""
    if not isinstance(content, list):
        yield Item(LAYOUT, None, _unknown_form()).at(document, None)
        return
    of_task: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
    for place, entry in enumerate(content):
        # JSON-min has an entry for each annotation of a task.
        task = to_whole(entry.get("id")) if _is_min(entry) else None
        of_task[(place,) if task is None else task].append((place, entry))
    for entries in of_task.values():
        place, entry = entries[0]
        item = _read_task(folder, document, entry, options) if _is_task(entry) else None
        item = item or _read_min(folder, document, [each for _, each in entries], options)
        yield item.at(document, f".[{place}]")


def _is_task(entry: Any) -> bool:
    return (
        isinstance(entry, dict) and isinstance(entry.get("data"), dict) and isinstance(entry.get("annotations"), list)
    )


def _is_min(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.keys() >= _MIN_KEYS and not _is_task(entry)


def _is_other_form(entry: Any) -> bool:
    """Tasks of before 1.0 and such that are imported; what it writes to a target storage; pages of its API."""
    if not isinstance(entry, dict):
        return False
    is_task = isinstance(entry.get("data"), dict) and bool({"completions", "predictions"} & entry.keys())
    is_stored = isinstance(entry.get("result"), list) and "task" in entry
    is_page = isinstance(entry.get("tasks"), list) and "total_annotations" in entry
    is_old_min = "completed_by" in entry and "id" in entry and "annotations" not in entry
    return is_task or is_stored or is_page or is_old_min


def _unknown_form() -> Rejected:
    return Rejected(
        "label_studio_form",
        "The file is Label Studio's, in a form that is not read. Export the project as JSON or JSON-min with Label "
        "Studio 1.0 or later.",
    )


def _read_task(folder: Folder, document: str, task: dict[str, Any], options: SourceOptions) -> Item:
    if is_skipped(task):
        return _read_skipped(folder, document, task["data"])
    item = _build(folder, document, task["data"], lambda: _annotate_task(task, options))
    return replace(item, provenance=provenance.of_task(task, options))


def _read_skipped(folder: Folder, document: str, data: dict[str, Any]) -> Item:
    """With its image where that is there, or it would be one that nobody has looked at."""
    try:
        return Item(LAYOUT, find_image(folder, document, _image_path(data)), Skipped())
    except Rejected:
        return Item(LAYOUT, None, Skipped())


def _annotate_task(task: dict[str, Any], options: SourceOptions) -> Label | SeveralLabels:
    """The annotations that were submitted. Predictions are a model's."""
    annotations = task["annotations"]
    if not all(isinstance(each, dict) for each in annotations):
        raise Rejected("label_studio_form", "The annotations of a task are not written out. Export as JSON.")
    kept = [each for each in annotations if is_submitted(each)]
    num_cancelled = len(annotations) - len(kept)
    _check_annotated(len(kept), task.get("predictions"))
    detail = f"{num_cancelled} cancelled or skipped annotation(s) of the task were left out."
    found = (Finding("cancelled", detail),) if num_cancelled else ()
    pairs = [(each.get("completed_by"), partial(to_results, each.get("result"))) for each in kept]
    return annotate_all(pairs, options, found)


def _check_annotated(kept: int, predictions: Any = None) -> None:
    if not kept:
        number = len(predictions) if isinstance(predictions, list) else 0
        raise Rejected(
            "not_annotated",
            f"The task has no annotation, and {number} prediction(s), which are a model's. Annotate it, or skip it in "
            "Label Studio, or export without it.",
        )


def _read_min(folder: Folder, document: str, entries: list[Any], options: SourceOptions) -> Item:
    if not _is_min(entries[0]):
        rejected = _unknown_form() if isinstance(entries[0], dict) else wrong_type("A task", "a mapping", entries[0])
        return Item(LAYOUT, None, rejected)
    data = {key: value for key, value in entries[0].items() if key not in _MIN_OWN_KEYS}
    item = _build(folder, document, data, lambda: _annotate_min(entries, options))
    return replace(item, provenance=provenance.of_min_entries(entries))


def _annotate_min(entries: list[dict[str, Any]], options: SourceOptions) -> Label | SeveralLabels:
    kept = [entry for entry in entries if entry["annotation_id"] is not None]
    _check_annotated(len(kept))
    return annotate_all([(entry["annotator"], partial(_min_results, entry)) for entry in kept], options)


def _min_results(entry: dict[str, Any]) -> Iterator[Result]:
    """A list for each tag that regions were drawn with. Answers to questions look as the task's own data do."""
    for name, values in entry.items():
        if name in _MIN_OWN_KEYS or not isinstance(values, list):
            continue
        for place, value in enumerate(values):
            if not isinstance(value, dict) or not ("original_width" in value or any(map(is_labels, value))):
                continue
            if not (kind := kind_of_value(value)):
                raise unknown_kind()
            yield Result(kind, (name, place), value, value)


def _build(
    folder: Folder, document: str, data: dict[str, Any], annotate_it: Callable[[], Label | SeveralLabels]
) -> Item:
    path: list[Any] = []

    def find() -> str:
        path.append(_image_path(data))
        return find_image(folder, document, path[0])

    item = build_item(LAYOUT, find, annotate_it)
    if item.image and (name := provenance.plain_name(data)):
        return item.called(name)
    return item.called(without_prefix(item.image)) if item.image and is_upload(path[0]) else item


def _image_path(data: dict[str, Any]) -> str:
    """The one field of a task's data that names an image file."""
    texts = [value for value in data.values() if isinstance(value, str)]
    paths = [text for text in texts if _names_image(text)]
    if len(paths) > 1:
        raise Rejected(
            "several_images",
            f"{len(paths)} fields of the task's data name image files, and the export does not say which the regions "
            "lie on. Keep one, or give source=label_studio://PROJECT: the project's labelling interface says it.",
        )
    if not paths and len(texts) != 1:
        raise Rejected("image_missing", "No field of the task's data names an image file of a kind that is read.")
    return (paths or texts)[0]


def _names_image(text: str) -> bool:
    address, _, query = text.partition("?")
    return any(kind_of(each) in IMAGE_KINDS for each in (text, address, parse_qs(query).get("d", [""])[0]))


DOCUMENT = DocumentLayout(is_label_studio, read_label_studio, "Label Studio's export as JSON or JSON-min")
