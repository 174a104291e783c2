"""The first two stages of a prediction job, run by tasks that import no model: listing images, and reading them."""

import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import pyarrow as pa
import ray

from sa2va_ray.cluster.streams import IO_TASK, chunks, from_block, stream_tables, to_dataset
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.predict.job.items import ImageItem, list_items, read_images
from sa2va_ray.predict.job.results import RESULT_SCHEMA
from sa2va_ray.predict.job.sources import SourceFile
from sa2va_ray.telemetry import Progress

T = TypeVar("T")

_IMAGES_PER_TASK = 8
_READ_SCHEMA = pa.schema(
    [
        *(RESULT_SCHEMA.field(name) for name in ("id", "name", "frame", "source_sha256", "prompt", "error")),
        ("stem", pa.string()),
        ("image", pa.large_binary()),
    ]
)


def list_images(sources: Sequence[SourceFile]) -> list[ImageItem]:
    """The images in all sources, in their order."""
    indexed = list(enumerate(sources))
    images = [each for each in indexed if each[1].kind == "image"]
    units = [*chunks(images, _IMAGES_PER_TASK), *([each] for each in indexed if each[1].kind != "image")]
    listed: dict[int, list[ImageItem]] = {}
    with Progress("list", len(sources)) as progress:
        for table in stream_tables(to_dataset(units).map_batches(_list_block, **IO_TASK)):
            for found in table["found"].to_pylist():
                listed.update(pickle.loads(found))
            progress.at(len(listed))
    return [item for index in sorted(listed) for item in listed[index]]


def read_rows_of(items: Sequence[ImageItem], config: PredictConfig) -> ray.data.Dataset:
    """Rows for `map_predictions`, in any order: what of the item belongs in the results, `stem`, `prompt`, `image`."""
    return to_dataset(_reading_units(items)).map_batches(partial(_read_block, config=config), **IO_TASK)


def name_of(item: ImageItem, config: PredictConfig) -> str | None:
    """What the results may tell of the name of an image. With the id, it is unique."""
    return item.source.name if config.keep_names and item.row is None else None


def stem_of(item: ImageItem, config: PredictConfig) -> str:
    """What the pictures of an image are called, without the suffix."""
    return item.name if config.keep_names else item.id


def _list_block(block: pa.Table) -> pa.Table:
    found = [{index: list_items(source, index) for index, source in unit} for unit in from_block(block)]
    return pa.table({"found": pa.array([pickle.dumps(each) for each in found], pa.binary())})


def _reading_units(items: Sequence[ImageItem]) -> list[list[list[ImageItem]]]:
    """What one task reads: a video or a DICOM run, whose frames must be neighbours, or some images or samples."""
    by_file = [list(group) for _, group in groupby(items, key=lambda item: item.source.uri)]
    single = [group for group in by_file if group[0].frame is None and group[0].row is None]
    frames = [[group] for group in by_file if group[0].frame is not None]
    samples = [[part] for group in by_file if group[0].row is not None for part in chunks(group, _IMAGES_PER_TASK)]
    return [*chunks(single, _IMAGES_PER_TASK), *samples, *frames]


def _read_block(block: pa.Table, config: PredictConfig) -> Iterator[pa.Table]:
    """A table for each image, so that a long video flows on while it is read."""
    for group in (group for unit in from_block(block) for group in unit):
        for item, image in read_images(group, config.max_pixels):
            yield pa.Table.from_pylist([_row(item, image, config)], schema=_READ_SCHEMA)


def _row(item: ImageItem, image: bytes | None, config: PredictConfig) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": name_of(item, config),
        "frame": item.frame,
        "source_sha256": item.source_sha256,
        "prompt": config.prompt,
        "error": item.error,
        "stem": stem_of(item, config),
        "image": image,
    }
