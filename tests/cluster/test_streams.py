"""Work on the cluster: rows as they come, and a user's error as one."""

from functools import partial

import pyarrow as pa
import pytest
import ray

from sa2va_ray.cluster.streams import map_items, stream_rows, stream_tables
from sa2va_ray.config import UserError
from sa2va_ray.storage import StorageError

SCHEMA = pa.schema([("square", pa.int64())])
MESSAGE = "The first line.\nThe second: a cure."


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
