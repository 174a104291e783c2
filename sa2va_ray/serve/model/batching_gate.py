"""Which questions may go on to be put into a batch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turnstile:
    """Lets questions through to one batch at a time, first come, first served. All others wait outside, where they can
    still be put together: Serve closes a batch `batch_wait_timeout_s` after its first question, also behind one that
    runs, and a small batch lets only a few new questions in, which are the next small batch.

    Attributes:
        max_megapixels: of a batch; a larger question goes alone.
    """

    def __init__(self, max_megapixels: int = 1):
        self.max_megapixels = max_megapixels
        self._megapixels_inside = 0
        self._is_running = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def inside(self, megapixels: int) -> AsyncIterator[None]:
        """From when the question may go into a batch until it has its answer."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_room(megapixels))
            self._megapixels_inside += megapixels
        try:
            yield
        finally:
            async with self._changed:
                self._megapixels_inside -= megapixels
                self._changed.notify_all()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """While a batch runs."""
        self._is_running = True
        try:
            yield
        finally:
            async with self._changed:
                self._is_running = False
                self._changed.notify_all()

    def _has_room(self, megapixels: int) -> bool:
        if self._is_running:
            return False
        return not self._megapixels_inside or self._megapixels_inside + megapixels <= self.max_megapixels
