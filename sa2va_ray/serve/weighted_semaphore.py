"""A semaphore whose holders take different amounts, for what a process has only so much of: memory for pixels."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sa2va_ray.serve.problems import Problem


class WeightedSemaphore:
    """Gives out amounts of `size`, first come, first served. A request for more than `size` is granted when nothing
    else is held, so that nobody waits for ever."""

    def __init__(self, size: int):
        self.size = size
        self._taken = 0
        self._queue = asyncio.Lock()  # held by the first that waits
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, amount: int, refusal: Problem | None = None) -> AsyncIterator[Callable[[int], None]]:
        """Holds an amount, and yields a function that reduces it to a smaller one once that is known to be enough.

        Args:
            refusal: raised when the amount is not free at once; with None the caller waits for it.

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

        def reduce_to(smaller: int) -> None:
            nonlocal held
            self._taken -= held - smaller
            held = smaller
            self._freed.set()

        try:
            yield reduce_to
        finally:
            reduce_to(0)

    def _fits(self, amount: int) -> bool:
        return not self._taken or self._taken + amount <= self.size
