"""`AsyncClient`, whose methods are awaited."""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx

from sa2va_ray.client.encoding import encode_image
from sa2va_ray.client.errors import EndpointError, NoReplyError
from sa2va_ray.client.folders import FolderCounts, check_folders, segment_files
from sa2va_ray.client.options import AskOptions, Options, Prompt
from sa2va_ray.client.results import Result
from sa2va_ray.client.retries import LONGEST_WAIT_S, NO_REPLY, back_off_s, problem_of, retry_after_s

if TYPE_CHECKING:
    from sa2va_ray.client.options import ImageLike

T = TypeVar("T")

_LOST = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.DecodingError)
_PNG = b"\x89PNG"
_MOST_TRIES, _LONGEST_TIMEOUT_S, _MOST_AT_ONCE = 1000, 86_400, 1000


class AsyncClient:
    """A client for one event loop. It tries again where the endpoint is busy (429, 503), after its Retry-After, where a
    proxy says that the endpoint does not answer (502, 504), and where the connection cannot be made or breaks: a
    question changes nothing at the endpoint."""

    def __init__(self, endpoint: str, api_key: str | None = None, timeout_s: float = 60, max_tries: int = 6):
        """
        Args:
            endpoint: `http://host:port` or `https://host`.
            api_key: without blanks and line ends, such as a file of one may have.
            timeout_s: longest silence of the endpoint in one try, up to a day.
            max_tries: of one request, 1 to 1000.

        Raises:
            ValueError: a number out of its bounds, or a key with other characters; the message does not hold the key.
        """
        if not 0 < timeout_s <= _LONGEST_TIMEOUT_S:
            raise ValueError(f"timeout_s is {timeout_s}; it is above 0, and {_LONGEST_TIMEOUT_S} at most.")
        _check_count("max_tries", max_tries, _MOST_TRIES)
        if api_key and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ValueError(f"The API key of {len(api_key)} characters has blanks, line ends or the like; strip it.")
        self._http = httpx.AsyncClient(
            base_url=endpoint,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=httpx.Timeout(timeout_s, pool=None),
        )
        self._endpoint, self._timeout_s, self._max_tries = endpoint, timeout_s, max_tries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def segment(self, image: "ImageLike", prompt: Prompt = None, **options: Unpack[Options]) -> Result:
        """Masks of one image.

        Raises:
            ProblemError: the endpoint refuses, or is still busy at the last try.
            NoReplyError: the endpoint could not be reached, broke the connection, or took too long.
        """
        return await self._segment(image, prompt, options, "application/json", _to_result)

    async def segment_png(self, image: "ImageLike", prompt: Prompt = None, **options: Unpack[Options]) -> bytes:
        """All masks together as PNG, 255 in the mask; with `output="probability"` 16 bits, the probability times 65535.

        Raises: as `segment`.
        """
        return await self._segment(image, prompt, options, "image/png", _to_png)

    async def models(self) -> list[dict[str, Any]]:
        """The served models: `name`, `sha256`, `threshold`, `cleanup`, `default_prompt`, `limits`; the first is the
        default.

        Raises: as `segment`.
        """
        return await self._send("GET", "/v1/models", _to_models)

    async def segment_folder(
        self,
        folder: str | os.PathLike[str],
        out: str | os.PathLike[str],
        prompt: Prompt = None,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[AskOptions],
    ) -> FolderCounts:
        """Masks of all images in and below a folder: `out/masks/ID.png` (all masks of an image together, 255 in the
        mask) and a line for each in `out/results.jsonl`: `id` and `result`, or `problem` of an image that was refused.
        File names may tell patients' names, so the id is the first 16 characters of the SHA-256 of the file.

        Started again, it makes what is missing or was refused; all of it, where prompt, options or model have changed.

        Raises:
            NotADirectoryError: `folder` is none.
            ValueError: `out` is `folder` or lies in it, so that the next start would ask about its own masks; or
                `concurrency` is not 1 to 1000.
            EndpointError: as `segment`, at what is no fault of an image.
        """
        _check_count("concurrency", concurrency, _MOST_AT_ONCE)
        check_folders(Path(folder), Path(out))
        asked = {"prompt": prompt, **options, "model_sha256": await self._sha256_of(options.get("model"))}

        async def segment(image: bytes) -> Result:
            return await self.segment(image, prompt, **options)

        return await segment_files(segment, asked, Path(folder), Path(out), concurrency, progress)

    async def _sha256_of(self, name: str | None) -> str | None:
        """Hash of the model of this name, or of the default one; None where there is none: the first image tells."""
        return next((model["sha256"] for model in await self.models() if name in (None, model["name"])), None)

    async def _segment(
        self,
        image: "ImageLike",
        prompt: Prompt,
        options: Options | AskOptions,
        accept: str,
        read: Callable[[httpx.Response], T],
    ) -> T:
        fields = {"prompt": prompt, **options}
        if fields.get("cleanup") is not None:
            fields["cleanup"] = json.dumps(fields["cleanup"])
        data = {name: value for name, value in fields.items() if value is not None}
        files = {"file": ("image", encode_image(image))}  # its own name stays here
        return await self._send("POST", "/v1/segment", read, data=data, files=files, headers={"Accept": accept})

    async def _send(self, method: str, path: str, read: Callable[[httpx.Response], T], **content: Any) -> T:
        for number in range(1, self._max_tries + 1):
            failure: EndpointError
            try:
                response = await self._http.request(method, path, **content)
            except _LOST as error:
                failure, wait_s = self._lost(error, number), back_off_s(number)
            except httpx.TimeoutException:
                raise NoReplyError(
                    f"{self._endpoint} was silent for {self._timeout_s:g} s. A large image, or a replica that has to "
                    "start first, takes longer: raise timeout_s."
                ) from None
            else:
                if response.is_success:
                    with suppress(*NO_REPLY):  # of a proxy, which asks to log in
                        return read(response)
                failure = problem = problem_of(response)
                wait_s = retry_after_s(response, problem, number)
            if number == self._max_tries or wait_s > LONGEST_WAIT_S:
                raise failure
            await asyncio.sleep(wait_s)
        raise AssertionError("max_tries is at least 1")

    def _lost(self, error: httpx.RequestError, number: int) -> NoReplyError:
        return NoReplyError(
            f"No connection to {self._endpoint} in {number} tries ({type(error).__name__}). "
            "Is it running (`serve status`), and is the address right?"
        )


def _to_result(response: httpx.Response) -> Result:
    reply = response.json()
    model = reply["model"]
    same = {name: reply[name] for name in ("request_id", "threshold", "height", "width", "timing_ms")}
    return Result(model_name=model["name"], model_sha256=model["sha256"], answers=tuple(reply["answers"]), **same)


def _to_png(response: httpx.Response) -> bytes:
    if not response.content.startswith(_PNG):
        raise ValueError("It is no PNG.")
    return response.content


def _to_models(response: httpx.Response) -> list[dict[str, Any]]:
    return list(response.json()["models"])


def _check_count(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} is {value}; 1 is the least, {most} the most.")
