"""Ray Data as all jobs use it: a task for each unit of work, results as they come, and a user's error as one."""

import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.exceptions import RayError

from sa2va_ray.cluster.resources import check_any_cpu, connect
from sa2va_ray.config import UserError
from sa2va_ray.telemetry import Progress

T = TypeVar("T")

_MAX_BLOCK_BYTES = 8 * 2**20
"""Blocks of a few rows: they are what actors share out, and what is lost when a run is killed."""
_USER_ERROR = re.compile(r"^sa2va_ray\.[\w.]*Error: (.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
_MEMORY_WAS_FULL = re.compile(r"Memory on the node \(.*?\) was (\S+) used / (\S+) limit")

IO_TASK: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None, "num_cpus": 0.25}
"""Arguments of `map_batches` for tasks that mostly wait for storage. With the CPUs of an actor, Ray Data would run them
within it, one after the other."""


def map_items(
    function: Callable[[T], dict[str, Any]], items: Sequence[T], schema: pa.Schema, items_per_task: int, what: str
) -> Iterator[dict[str, Any]]:
    """Runs a function over many items on the whole cluster: a row of `schema` for each, in any order, with progress in
    the log.

    Args:
        items_per_task: small enough to keep all cores busy to the end, large enough that a task is worth its start.

    Raises:
        UserError: one that the function raised; no CPU in the cluster, and none that may be started.
    """
    if not items:
        return
    connect()
    check_any_cpu()
    apply = partial(_apply, function=function, schema=schema)
    dataset = to_dataset(chunks(items, items_per_task)).map_batches(apply, batch_format="pyarrow", batch_size=None)
    done = 0
    with Progress(what, len(items)) as progress:
        for table in stream_tables(dataset):
            for row in table.to_pylist():
                done += 1
                progress.at(done)
                yield row


def chunks(values: Sequence[T], size: int) -> list[list[T]]:
    """The values in their order, `size` at a time."""
    return [list(values[begin : begin + size]) for begin in range(0, len(values), size)]


def to_dataset(units: Sequence[Any]) -> ray.data.Dataset:
    """A task for each unit, which `from_block` gives back. Pickled, because Ray Data logs values that it cannot
    convert, and these may hold names of files."""
    return ray.data.from_items([{"unit": pickle.dumps(unit)} for unit in units], override_num_blocks=len(units))


def from_block(block: pa.Table) -> list[Any]:
    """The units in a block of `to_dataset`."""
    return [pickle.loads(unit) for unit in block["unit"].to_pylist()]


def stream_tables(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """Runs a data set and yields its blocks as they come, in any order.

    Raises:
        UserError: one of ours that ended a task or an actor, such as a model that does not match its manifest.
    """
    dataset.context.target_max_block_size = _MAX_BLOCK_BYTES
    with user_errors(dataset):
        yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None)


def stream_rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Runs a data set and yields its rows as they come, in any order. Raises like `stream_tables`."""
    with user_errors(dataset):
        yield from dataset.iter_rows()


@contextmanager
def user_errors(dataset: ray.data.Dataset) -> Iterator[None]:
    """While a data set runs: without Ray's own progress bars, and with a `UserError` of a task or an actor as one. Ray
    hands over the text of what an actor raised, not the exception.

    Raises:
        UserError: with the message that it had there.
    """
    dataset.context.enable_progress_bars = False  # `Progress` tells more in the log of a job
    try:
        yield
    except RayError as error:
        if message := user_message(error):
            raise UserError(message) from None
        raise


def user_message(error: Exception) -> str | None:
    """The message of a `UserError` that the text of an error of Ray's quotes; None where it quotes none."""
    match = _USER_ERROR.search(str(error))
    return match[1] if match else None


def cause_of(error: Exception) -> str:
    """The cause in an error of Ray's: what we ourselves have raised, or its last line, except where memory was short
    and that line is advice on Ray's settings."""
    if found := _MEMORY_WAS_FULL.search(str(error)):
        return (
            f"Ray killed a worker, because {found[1]} of its node's {found[2]} of memory were in use. Let less run "
            "beside it, or give the node more."
        )
    if raised := user_message(error):
        return raised.splitlines()[0]  # behind it stands more of the traceback
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _apply(block: pa.Table, function: Callable[[Any], dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([function(item) for unit in from_block(block) for item in unit], schema=schema)
