"""Ray Data as this package uses it: a task for each unit of work, and tables as they come."""

import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError

from sa2va_ray.config import UserError

_MAX_BLOCK_BYTES = 8 * 2**20
"""Blocks of a few rows: they are what actors share out, and what is lost when a run is killed."""
_USER_ERROR = re.compile(r"^sa2va_ray\.[\w.]*Error: (.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)

IO_TASK: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None, "num_cpus": 0.25}
"""Arguments of `map_batches` for tasks that mostly wait for storage. With the CPUs of an actor, Ray Data would run them
within it, one after the other."""


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
        UserError: one of ours that ended a worker, such as a model that does not match its manifest.
    """
    dataset.context.enable_progress_bars = False  # `log_progress` tells more in the log of a job
    dataset.context.target_max_block_size = _MAX_BLOCK_BYTES
    with _user_errors():
        yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None)


@contextmanager
def _user_errors() -> Iterator[None]:
    """Ray hands over the text of what was raised in an actor, not the exception."""
    try:
        yield
    except RayError as error:
        if match := _USER_ERROR.search(str(error)):
            raise UserError(match[1]) from None
        raise
