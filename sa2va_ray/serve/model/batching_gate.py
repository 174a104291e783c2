"""The gate before Serve's batches: which questions may go on to be put into one."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Ticket:
    megapixels: int
    is_admitted: asyncio.Event = field(default_factory=asyncio.Event)


class BatchingGate:
    """Admits the questions of one batch together, first come, first served; those that wait at the gate can still be
    put together. Without it batches would stay small: Serve closes a batch `batch_wait_timeout_s` after its first
    question, even if it then waits behind a batch that runs, and the few callers of a small batch come back as the next
    small batch.

    While a batch runs, a full one is let in behind it, so that the model has it at hand when it is done; one that could
    still grow waits at the gate.

    Attributes:
        max_megapixels: largest batch; a larger question goes alone.
    """

    def __init__(self, max_megapixels: int = 1):
        self.max_megapixels = max_megapixels
        self._waiting: deque[_Ticket] = deque()
        self._gathered: set[_Ticket] = set()  # admitted, and in no batch yet
        self._num_running = 0

    @asynccontextmanager
    async def admitted(self, megapixels: int) -> AsyncIterator[None]:
        """Waits until the question may go into a batch."""
        ticket = _Ticket(megapixels)
        self._waiting.append(ticket)
        self._admit()
        try:
            await ticket.is_admitted.wait()
            yield
        finally:
            if not ticket.is_admitted.is_set():
                self._waiting.remove(ticket)
            self._gathered.discard(ticket)
            self._admit()

    @contextmanager
    def batch_running(self) -> Iterator[None]:
        """A batch of those that were admitted."""
        self._gathered.clear()
        self._num_running += 1
        self._admit()
        try:
            yield
        finally:
            self._num_running -= 1
            self._admit()

    def _admit(self) -> None:
        if self._num_running > 1 or (self._num_running and (self._gathered or not self._is_batch_full())):
            return
        while self._waiting and self._has_room(self._waiting[0]):
            ticket = self._waiting.popleft()
            self._gathered.add(ticket)
            ticket.is_admitted.set()

    def _has_room(self, ticket: _Ticket) -> bool:
        gathered = sum(each.megapixels for each in self._gathered)
        return not gathered or gathered + ticket.megapixels <= self.max_megapixels

    def _is_batch_full(self) -> bool:
        """Whether those that wait make a batch to which none can be added."""
        total = 0
        for ticket in self._waiting:
            total += ticket.megapixels
            if total >= self.max_megapixels:
                return True
        return False
