"""The threads in which an ingress decodes images and encodes answers, with bounds of memory and time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np

from sa2va_ray.serve.config import LimitsConfig
from sa2va_ray.serve.http.read.images import decode_upload, read_num_pixels
from sa2va_ray.serve.http.read.strict_base64 import SMALL
from sa2va_ray.serve.problems import Problem
from sa2va_ray.serve.weighted_semaphore import WeightedSemaphore

T = TypeVar("T")
D = TypeVar("D", str, bytes)

_NUM_THREADS = 4
_SMALL_PIXELS = 4_000_000
_COLOURS = 3  # bytes of a pixel
_PROBABILITY_BYTES, _MASKS_IN_A_BYTE = 2, 8


def is_large(num_pixels: int) -> bool:
    """Whether an image is decoded and encoded alone, for the memory that this takes."""
    return num_pixels > _SMALL_PIXELS


class ImageWorkers:
    """Decodes images and encodes answers. Decoding takes many times the memory of the pixels that come out, encoding
    many times that of a mask; so one large image at a time is decoded or encoded."""

    def __init__(self, limits: LimitsConfig):
        self._limits = limits
        busy = "The images that are being worked on take all the memory that is set aside for them."
        cure = "Try again after the seconds in Retry-After."
        self._memory = WeightedSemaphore(limits.max_memory_bytes)
        self._refusal = Problem(503, "Too busy", busy, cure, limits.retry_after_s)
        self._threads = ThreadPoolExecutor(_NUM_THREADS)
        self._large = asyncio.Lock()

    @asynccontextmanager
    async def decoded(
        self, data: bytes, num_prompts: int, with_probabilities: bool, wait: bool
    ) -> AsyncIterator[np.ndarray]:
        """Decodes an image to (H, W) or (H, W, 3) uint8. Memory for it and for its answers is reserved until the end of
        the context; the time limit counts from the reservation.

        Args:
            wait: wait for memory; otherwise a request that finds none is refused.

        Raises:
            Problem: not one image within the limits, no memory for it now, or no answer in time.
        """
        limit = self._limits.max_image_pixels
        num_pixels = await self.run(read_num_pixels, data, limit, alone=False)
        for_answers = num_prompts * ((_PROBABILITY_BYTES if with_probabilities else 0) + 1 / _MASKS_IN_A_BYTE)
        most = round(num_pixels * (_COLOURS + for_answers))
        async with self._memory.hold(most, None if wait else self._refusal) as reduce_to, self._in_time():
            pixels = await self.run(decode_upload, data, limit, alone=is_large(num_pixels))
            reduce_to(round(pixels.nbytes + num_pixels * for_answers))
            yield pixels

    async def run_on(self, work: Callable[[D], T], data: D) -> T:
        """As `run`, for work that takes little memory, and little time where there is little data: that is done here,
        and sooner than a thread begins."""
        return work(data) if len(data) <= SMALL else await self._run(work, data)

    async def run(self, work: Callable[..., T], *args: Any, alone: bool) -> T:
        """Calls `work` in a thread and waits for its end, also when the caller has left: until then it holds memory.

        Args:
            alone: the work takes much memory; only one such call runs at a time.
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
