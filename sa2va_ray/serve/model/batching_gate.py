"""The gate before Serve's batches: which questions may go on to be put into one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BatchingGate:
    """Admits the questions of one batch at a time, first come, first served, and none while a batch runs. Those that
    wait at the gate can still be put together. Without it batches would stay small: Serve closes a batch
    `batch_wait_timeout_s` after its first question, even if it then waits behind a batch that runs, and the few callers
    of a small batch come back as the next small batch.

    Attributes:
        max_megapixels: largest batch; a larger question goes alone.
    """

    def __init__(self, max_megapixels: int = 1):
        self.max_megapixels = max_megapixels
        self._admitted_megapixels = 0
        self._is_running = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def admitted(self, megapixels: int) -> AsyncIterator[None]:
        """Waits until the question may go into a batch; it counts as admitted until it has its answer."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_room(megapixels))
            self._admitted_megapixels += megapixels
        try:
            yield
        finally:
            async with self._changed:
                self._admitted_megapixels -= megapixels
                self._changed.notify_all()

    @asynccontextmanager
    async def batch_running(self) -> AsyncIterator[None]:
        """Admits nothing while a batch runs."""
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
        return not self._admitted_megapixels or self._admitted_megapixels + megapixels <= self.max_megapixels
