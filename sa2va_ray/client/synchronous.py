"""`Client`, whose methods return when the result is there."""

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from sa2va_ray.client.asynchronous import AsyncClient
from sa2va_ray.client.folders import FolderCounts
from sa2va_ray.client.options import AskOptions, Options, Prompt
from sa2va_ray.client.results import Result

if TYPE_CHECKING:
    from sa2va_ray.client.options import ImageLike

T = TypeVar("T")


class Client:
    """`AsyncClient` for code that does not await, also in notebooks. Each process makes its own; threads may share
    it."""

    def __init__(self, endpoint: str, api_key: str | None = None, timeout_s: float = 60, max_tries: int = 6):
        """Takes what `AsyncClient` takes."""
        self._client = AsyncClient(endpoint, api_key, timeout_s, max_tries)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=(self._loop,), name="sa2va-client", daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self._loop, self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._finalizer()

    def segment(self, image: "ImageLike", prompt: Prompt = None, **options: Unpack[Options]) -> Result:
        """See `AsyncClient.segment`, as for the other methods."""
        return self._await(self._client.segment(image, prompt, **options))

    def segment_png(self, image: "ImageLike", prompt: Prompt = None, **options: Unpack[Options]) -> bytes:
        return self._await(self._client.segment_png(image, prompt, **options))

    def models(self) -> list[dict[str, Any]]:
        return self._await(self._client.models())

    def segment_folder(
        self,
        folder: str | os.PathLike[str],
        out: str | os.PathLike[str],
        prompt: Prompt = None,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[AskOptions],
    ) -> FolderCounts:
        return self._await(self._client.segment_folder(folder, out, prompt, concurrency, progress, **options))

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C: what is under way ends too
            future.cancel()
            raise


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: AsyncClient) -> None:
    """Does not wait: it may run in the loop's own thread, where the garbage collector finds the client."""

    async def end() -> None:
        await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
