"""Items of an iterator, each made while its caller is at work on the one before."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order, made in a thread of their own: the first is begun at once, each other one when
    the one before is taken. An error comes where its item would have come."""
    pool = ThreadPoolExecutor(1)
    first = _begin(pool, items)

    def taken(pending: Future[list[Item]]) -> Iterator[Item]:
        try:
            while got := pending.result():
                pending = _begin(pool, items)
                yield from got
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return taken(first)


def _begin(pool: ThreadPoolExecutor, items: Iterator[Item]) -> Future[list[Item]]:
    """The next item, in a list; an empty one behind the last."""
    return pool.submit(lambda: list(islice(items, 1)))
