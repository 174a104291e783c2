"""A thread pool for calls that may hang."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sa2va_ray.serve.problems import Problem

P = ParamSpec("P")
T = TypeVar("T")


class BoundedThreadPool:
    """Threads for one kind of call, so that calls that hang hold up no other kind. A call that finds no free thread is
    refused, not queued. A call whose caller has left keeps its thread until it ends."""

    def __init__(self, number: int, refusal: Problem):
        """
        Args:
            refusal: raised when all threads are busy.
        """
        self._pool = ThreadPoolExecutor(number)
        self._free, self._refusal = threading.Semaphore(number), refusal

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Raises:
            Problem: all threads are busy.
        """
        if not self._free.acquire(blocking=False):
            raise self._refusal
        future = self._pool.submit(call, *args, **kwargs)
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.wrap_future(future)
