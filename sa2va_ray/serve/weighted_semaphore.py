"""What there is only so much of in a process, such as memory for pixels."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sa2va_ray.serve.problems import Problem


class Room:
    """Given out in amounts, first come, first served. Who wants more than there is in all gets it when nobody else has
    any, so that nobody is refused for ever."""

    def __init__(self, size: int):
        self.size = size
        self._taken = 0
        self._queue = asyncio.Lock()  # held by the first of those who wait
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, amount: int, refusal: Problem | None = None) -> AsyncIterator[Callable[[int], None]]:
        """Yields a function that gives back all but an amount, once it is known that this is enough.

        Args:
            refusal: what one is told who finds no room; None waits for it.

        Raises:
            Problem: the refusal.
        """
        if refusal and (self._queue.locked() or not self._fits(amount)):
            raise refusal
        async with self._queue:
            while not self._fits(amount):
                self._freed.clear()
                await self._freed.wait()
            self._taken += amount
        held = amount

        def keep(less: int) -> None:
            nonlocal held
            self._taken -= held - less
            held = less
            self._freed.set()

        try:
            yield keep
        finally:
            keep(0)

    def _fits(self, amount: int) -> bool:
        return not self._taken or self._taken + amount <= self.size
