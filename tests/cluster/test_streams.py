"""Work on the cluster: rows as they come, and a user's error as one."""

from functools import partial

import pyarrow as pa
import pytest
import ray

from sa2va_ray.cluster.streams import cause_of, map_items, stream_rows, stream_tables
from sa2va_ray.config import UserError
from sa2va_ray.storage import StorageError

SCHEMA = pa.schema([("square", pa.int64())])
MESSAGE = "The first line.\nThe second: a cure."
_OUT_OF_MEMORY = """1 worker(s) failed
ray.exceptions.OutOfMemoryError: 2 worker(s) were killed due to the node running low on memory.
Memory on the node (IP: 192.0.2.2, ID: 97f3) was 22.31GB used / 23.48GB limit (0.950170)
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io."""


def square(number: int, refused: int | None = None) -> dict[str, int]:
    if number == refused:
        raise StorageError(MESSAGE)
    return {"square": number * number}


class Refuses:
    def __init__(self) -> None:
        raise UserError(MESSAGE)

    def __call__(self, batch: dict) -> dict:
        return batch


def test_a_row_for_each_item(ray_cluster):
    rows = list(map_items(square, range(7), SCHEMA, items_per_task=3, what="square"))
    assert sorted(row["square"] for row in rows) == [0, 1, 4, 9, 16, 25, 36]
    assert list(map_items(square, [], SCHEMA, items_per_task=3, what="square")) == []


def test_a_users_error_in_a_task_or_an_actor_is_one_here(ray_cluster):
    with pytest.raises(UserError) as of_task:
        list(map_items(partial(square, refused=5), range(7), SCHEMA, items_per_task=3, what="square"))
    actors = ray.data.range(3).map_batches(Refuses, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.25)
    errors = [of_task.value]
    for stream in (stream_rows, stream_tables):
        with pytest.raises(UserError) as of_actor:
            list(stream(actors))
        errors.append(of_actor.value)
    assert {str(error) for error in errors} == {MESSAGE}


def test_a_bug_stays_a_bug(ray_cluster):
    with pytest.raises(Exception, match="ZeroDivisionError") as caught:
        list(map_items(lambda number: {"square": number // 0}, [1], SCHEMA, items_per_task=1, what="square"))
    assert not isinstance(caught.value, UserError)


def test_a_worker_that_was_killed_for_memory_is_told_as_that():
    told = cause_of(RuntimeError(_OUT_OF_MEMORY))
    assert "22.31GB of its node's 23.48GB of memory were in use" in told
    assert "documentation" not in told


def test_other_causes_are_the_last_line():
    assert cause_of(RuntimeError("Traceback ...\n\n  ValueError: 3 of 4  \n")) == "ValueError: 3 of 4"
    assert cause_of(RuntimeError()) == "RuntimeError"
