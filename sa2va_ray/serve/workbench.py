"""Where an ingress decodes images and encodes answers: in threads of its own, with bounds of memory and time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import numpy as np

from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.images import decode_if_small, decode_image
from sa2va_ray.serve.problems import Problem
from sa2va_ray.serve.room import Room

T = TypeVar("T")

_NUM_THREADS = 4
_SMALL_PIXELS = 4_000_000
_COLOURS = 3  # bytes of a pixel
_PROBABILITY_BYTES, _MASKS_IN_A_BYTE = 2, 8


def is_large(num_pixels: int) -> bool:
    return num_pixels > _SMALL_PIXELS


class Workbench:
    """Decoding takes many times the memory of the pixels that come out, and encoding that of a mask: of larger images
    there is one at a time in either."""

    def __init__(self, limits: LimitsConfig):
        self._limits = limits
        busy = "The images that are being worked on take all the memory that is set aside for them."
        cure = "Try again after the seconds in Retry-After."
        self._memory = Room(limits.max_memory_bytes)
        self._refusal = Problem(503, "Too busy", busy, cure, limits.retry_after_s)
        self._threads = ThreadPoolExecutor(_NUM_THREADS)
        self._large = asyncio.Lock()

    @asynccontextmanager
    async def decoded(
        self, data: bytes, num_prompts: int, with_probabilities: bool, wait: bool
    ) -> AsyncIterator[np.ndarray]:
        """(H, W) or (H, W, 3) uint8. Until it is left, there is memory for it and for its answers. From when there is,
        the time limit counts.

        Args:
            wait: for memory, in place of a refusal.

        Raises:
            Problem: not one image within the limits, no memory for it now, or no answer in time.
        """
        small, limit = min(_SMALL_PIXELS, self._limits.max_image_pixels), self._limits.max_image_pixels
        for_answers = num_prompts * ((_PROBABILITY_BYTES if with_probabilities else 0) + 1 / _MASKS_IN_A_BYTE)
        async with AsyncExitStack() as stack:
            pixels = await self._decode(stack, decode_if_small, data, small, for_answers, wait)
            if pixels is None:
                await stack.aclose()
                pixels = await self._decode(stack, decode_image, data, limit, for_answers, wait)
            yield pixels

    async def _decode(
        self,
        stack: AsyncExitStack,
        decoder: Callable[[bytes, int], T],
        data: bytes,
        max_pixels: int,
        for_answers: float,
        wait: bool,
    ) -> T:
        """Takes memory and time as for `max_pixels`, and gives back what the image does not need."""
        most = round(max_pixels * (_COLOURS + for_answers))
        keep = await stack.enter_async_context(self._memory.hold(most, None if wait else self._refusal))
        await stack.enter_async_context(self._in_time())
        pixels = await self.run(decoder, data, max_pixels, alone=is_large(max_pixels))
        if isinstance(pixels, np.ndarray):
            height, width = pixels.shape[:2]
            keep(round(pixels.nbytes + height * width * for_answers))
        return pixels

    async def run(self, work: Callable[..., T], *args: Any, alone: bool) -> T:
        """In a thread, and to its end, since as long it holds its memory.

        Args:
            alone: it takes much memory, and only one such thing is done at a time.
        """
        if not alone:
            return await self._run(work, *args)
        async with self._large:
            return await self._run(work, *args)

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            future.exception()  # nobody else asks for it
            raise

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        limit_s = self._limits.answer_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise Problem(
                504,
                "Out of time",
                f"The answer was not ready within {limit_s:g} s.",
                "Send a smaller image or fewer prompts; if small ones take as long, the endpoint is overloaded.",
            ) from None
