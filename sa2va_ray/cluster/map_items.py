"""Runs a function over many items on the whole cluster with Ray Data."""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray

from sa2va_ray.telemetry import log_progress

T = TypeVar("T")

_NUM_PROGRESS_LINES = 20


def map_on_cluster(
    function: Callable[[T], dict[str, Any]], items: Sequence[T], schema: pa.Schema, items_per_task: int, what: str
) -> Iterator[dict[str, Any]]:
    """Yields a row of `schema` for each item, in any order, with progress in the log.

    Args:
        items_per_task: small enough to keep all cores busy to the end, large enough that a task is worth its start.
    """
    if not items:
        return
    if not ray.is_initialized():
        ray.init()
    # Pickled, because Ray Data repeats the values of a column that it cannot convert in its log, and these hold names.
    rows = ray.data.from_items(
        [{"item": pickle.dumps(item)} for item in items], override_num_blocks=math.ceil(len(items) / items_per_task)
    )
    apply = partial(_apply, function=function, schema=schema)
    dataset = rows.map_batches(apply, batch_format="pyarrow", batch_size=None)
    dataset.context.enable_progress_bars = False  # `log_progress` tells more in the log of a job
    batches: Iterable[pa.Table] = dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    done, every = 0, math.ceil(len(items) / _NUM_PROGRESS_LINES)
    for batch in batches:
        for row in batch.to_pylist():
            done += 1
            if done % every == 0 or done == len(items):
                log_progress(what, done, len(items))
            yield row


def _apply(batch: pa.Table, function: Callable[[Any], dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([function(pickle.loads(item)) for item in batch["item"].to_pylist()], schema=schema)
