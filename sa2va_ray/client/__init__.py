"""Client of an endpoint that sa2va_ray serves: `Client`, and `AsyncClient` with the same methods to be awaited.

    with Client("http://127.0.0.1:8000") as client:
        mask = client.segment(Path("image.png"), "Please segment the blood vessels.").mask()

Of the project it imports nothing, and of others httpx alone; masks are decoded by pycocotools.
"""

import asyncio
import hashlib
import io
import json
import os
import random
import threading
import weakref
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, TypedDict, TypeVar, Unpack

import httpx

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    ImageLike = str | os.PathLike[str] | bytes | BinaryIO | Image
    """The path of an encoded file, its bytes, the file opened, or pixels, of which all bits are sent."""
    Prompt = str | Sequence[str] | None
    """One question or several about the image; None leaves it to the endpoint."""

T = TypeVar("T")

_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"}
_ID_LENGTH = 16  # as in jobs.predict
# Modes of PIL, by the kind of file that holds all their bits.
_AS_PNG, _AS_TIFF = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B"), ("I", "I;16L", "I;16N", "F")
_BITS, _COMPRESSION, _PHOTOMETRIC, _COLORMAP, _SAMPLE_FORMAT, _BLACK_IS_ZERO = 258, 259, 262, 320, 339, 1  # of TIFF
_BUSY = (429, 503)
_NOT_OF_THE_IMAGE = (401, 403, 404, *_BUSY)
_LOST = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
_LONGEST_WAIT_S, _LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S = 60.0, 30.0, 0.5


class AskOptions(TypedDict, total=False):
    """What goes with an image beside the prompt; what is left out is the endpoint's choice."""

    threshold: float | None
    """In [0, 1]."""
    cleanup: dict[str, int] | None
    """`close_px`, `open_px`, `min_component_px`, `max_hole_px`."""
    model: str | None
    """Name of a served model."""


class Options(AskOptions, total=False):
    """With the form of the reply."""

    output: Literal["rle", "polygons", "png", "probability"]


class EndpointError(Exception):
    """No result."""


class NoReplyError(EndpointError):
    """The endpoint could not be reached, broke the connection, or took too long."""


class ProblemError(EndpointError):
    """The endpoint refused. Title, detail and cure are those of its problem document."""

    def __init__(self, status: int, title: str, detail: str, cure: str, request_id: str):
        super().__init__(status, title, detail, cure, request_id)
        self.status, self.title, self.detail, self.cure, self.request_id = status, title, detail, cure, request_id

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail} {self.cure} (request {self.request_id})"


@dataclass(frozen=True)
class Result:
    """Attributes:
    model_sha256: of the exported folder that answered.
    threshold: that the masks were made with.
    answers: one for each prompt: `prompt`, `text`, `score`, `area_fraction`, `mean_confidence`, and `masks`, each with
        its `area_fraction` and under the name of the output what was asked for.
    timing_ms: by stage, at the endpoint.
    """

    request_id: str
    model_name: str
    model_sha256: str
    threshold: float
    height: int
    width: int
    answers: tuple[dict[str, Any], ...]
    timing_ms: dict[str, float]

    def mask(self, i: int = 0) -> "np.ndarray":
        """(H, W) bool: all masks of the answer to prompt `i` together; empty where it has none.

        Raises:
            ValueError: the output that was asked for is not `rle`.
        """
        return self._union([self.answers[i]])

    def union(self) -> "np.ndarray":
        """(H, W) bool: all masks of all answers."""
        return self._union(self.answers)

    def _union(self, answers: Sequence[dict[str, Any]]) -> "np.ndarray":
        import numpy as np
        from pycocotools import mask as coco_mask

        masks = [mask for answer in answers for mask in answer["masks"]]
        if any("rle" not in mask for mask in masks):
            raise ValueError("Masks are decoded from run lengths: ask with output='rle', which is the default.")
        if not masks:
            return np.zeros((self.height, self.width), bool)
        rles = [{"size": mask["rle"]["size"], "counts": mask["rle"]["counts"].encode()} for mask in masks]
        return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


@dataclass
class FolderCounts:
    """Of the files of a folder: masks that were made, were there already, or could not be made."""

    done: int = 0
    skipped: int = 0
    bad: int = 0


class AsyncClient:
    """For one event loop. Tries again where the endpoint is busy (429, 503), after its Retry-After, and where the
    connection cannot be made or breaks: a question changes nothing at the endpoint."""

    def __init__(self, endpoint: str, api_key: str | None = None, timeout_s: float = 60, max_tries: int = 6):
        """
        Args:
            endpoint: `http://host:port` or `https://host`.
            api_key: without blanks and line ends, such as a file of one may have.
            timeout_s: longest silence of the endpoint in one try.

        Raises:
            ValueError: a key with other characters; the message does not hold it.
        """
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

    async def segment(self, image: "ImageLike", prompt: "Prompt" = None, **options: Unpack[Options]) -> Result:
        """Masks of one image.

        Raises:
            ProblemError: the endpoint refuses, or is still busy at the last try.
            NoReplyError: see there.
        """
        reply = (await self._segment(image, prompt, options, "application/json")).json()
        model = reply["model"]
        same = {name: reply[name] for name in ("request_id", "threshold", "height", "width", "timing_ms")}
        return Result(model_name=model["name"], model_sha256=model["sha256"], answers=tuple(reply["answers"]), **same)

    async def segment_png(self, image: "ImageLike", prompt: "Prompt" = None, **options: Unpack[Options]) -> bytes:
        """All masks together as PNG, 255 in the mask; with `output="probability"` 16 bits, the probability times 65535.

        Raises: as `segment`.
        """
        return (await self._segment(image, prompt, options, "image/png")).content

    async def models(self) -> list[dict[str, Any]]:
        """The served models: `name`, `sha256`, `threshold`, `cleanup`, `default_prompt`, `limits`; the first is the
        default.

        Raises: as `segment`.
        """
        return (await self._send("GET", "/v1/models")).json()["models"]

    async def segment_folder(
        self,
        folder: str | os.PathLike[str],
        out: str | os.PathLike[str],
        prompt: "Prompt" = None,
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
                `concurrency` is below 1.
            EndpointError: as `segment`, at what is no fault of an image.
        """
        if not Path(folder).is_dir():
            raise NotADirectoryError(f"{folder} is no folder of images.")
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; 1 is the least.")
        _check_outside(Path(out), Path(folder))
        asked = {"prompt": prompt, **options, "model_sha256": await self._sha256_of(options.get("model"))}
        results = _Results(Path(out), asked)
        paths = _images_below(Path(folder))
        with _progress_bar(len(paths), progress) as bar:
            queue = iter(paths)

            async def work() -> None:
                for path in queue:
                    await self._segment_file(path, results, prompt, options)
                    bar.update()

            workers = [asyncio.create_task(work()) for _ in range(concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
        return results.counts

    async def _segment_file(self, path: Path, results: "_Results", prompt: "Prompt", options: AskOptions) -> None:
        data = await asyncio.to_thread(path.read_bytes)
        id = hashlib.sha256(data).hexdigest()[:_ID_LENGTH]
        if not results.claim(id):
            return
        try:
            result = await self.segment(data, prompt, **options)
        except ProblemError as problem:
            if problem.status in _NOT_OF_THE_IMAGE:
                raise
            results.add_problem(id, problem)
        else:
            await asyncio.to_thread(results.write_mask, id, result)
            results.add(id, result)

    async def _sha256_of(self, name: str | None) -> str | None:
        """Of the model of this name, or of the default one; None where there is none, which the first image tells."""
        return next((model["sha256"] for model in await self.models() if name in (None, model["name"])), None)

    async def _segment(
        self, image: "ImageLike", prompt: "Prompt", options: Options | AskOptions, accept: str
    ) -> httpx.Response:
        fields = {"prompt": prompt, **options}
        if fields.get("cleanup") is not None:
            fields["cleanup"] = json.dumps(fields["cleanup"])
        data = {name: value for name, value in fields.items() if value is not None}
        files = {"file": ("image", _encoded(image))}  # its own name stays here
        return await self._send("POST", "/v1/segment", data=data, files=files, headers={"Accept": accept})

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        for number in range(1, self._max_tries + 1):
            failure: EndpointError
            try:
                response = await self._http.request(method, path, **content)
            except _LOST as error:
                failure, wait_s = self._lost(error, number), _back_off_s(number)
            except httpx.TimeoutException:
                raise NoReplyError(
                    f"{self._endpoint} was silent for {self._timeout_s:g} s. A large image, or a replica that has to "
                    "start first, takes longer: raise timeout_s."
                ) from None
            else:
                if response.is_success:
                    return response
                failure, wait_s = _problem(response), _retry_after_s(response, number)
            if number == self._max_tries or wait_s > _LONGEST_WAIT_S:
                raise failure
            await asyncio.sleep(wait_s)
        raise AssertionError("max_tries is at least 1")

    def _lost(self, error: httpx.TransportError, number: int) -> NoReplyError:
        return NoReplyError(
            f"No connection to {self._endpoint} in {number} tries ({type(error).__name__}). "
            "Is it running (`serve status`), and is the address right?"
        )


class Client:
    """`AsyncClient` for code that does not await, also in notebooks. Of each process its own; threads may share one."""

    def __init__(self, endpoint: str, api_key: str | None = None, timeout_s: float = 60, max_tries: int = 6):
        """Args: as of `AsyncClient`."""
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

    def segment(self, image: "ImageLike", prompt: "Prompt" = None, **options: Unpack[Options]) -> Result:
        """See `AsyncClient.segment`, as for the other methods."""
        return self._await(self._client.segment(image, prompt, **options))

    def segment_png(self, image: "ImageLike", prompt: "Prompt" = None, **options: Unpack[Options]) -> bytes:
        return self._await(self._client.segment_png(image, prompt, **options))

    def models(self) -> list[dict[str, Any]]:
        return self._await(self._client.models())

    def segment_folder(
        self,
        folder: str | os.PathLike[str],
        out: str | os.PathLike[str],
        prompt: "Prompt" = None,
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


class _Results:
    """What is in `out`, and what comes to it."""

    def __init__(self, out: Path, asked: dict[str, Any]):
        """
        Args:
            asked: what results there must have been made with to be kept.
        """
        self.counts, self._asked, self._masks = FolderCounts(), json.loads(json.dumps(asked)), out / "masks"
        self._masks.mkdir(parents=True, exist_ok=True)
        self._file = out / "results.jsonl"
        kept = {line["id"]: line for line in self._read() if self._is_good(line)}
        self._claimed = set(kept)
        partial = self._file.with_suffix(".part")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept.values()))
        partial.replace(self._file)

    def claim(self, id: str) -> bool:
        """Whether this image is still to be done; from then on it is not."""
        if id in self._claimed:
            self.counts.skipped += 1
            return False
        self._claimed.add(id)
        return True

    def write_mask(self, id: str, result: Result) -> None:
        from PIL import Image

        partial = self._masks / f".{id}.part"
        Image.fromarray(result.union()).convert("L").save(partial, "PNG")
        partial.replace(self._masks / f"{id}.png")

    def add(self, id: str, result: Result) -> None:
        self._append({"id": id, "asked": self._asked, "result": asdict(result)})
        self.counts.done += 1

    def add_problem(self, id: str, problem: ProblemError) -> None:
        self._append({"id": id, "asked": self._asked, "problem": vars(problem)})
        self.counts.bad += 1

    def _read(self) -> Iterator[dict[str, Any]]:
        lines = self._file.read_text().splitlines(keepends=True) if self._file.exists() else []
        return (json.loads(line) for line in lines if line.endswith("\n"))  # the last one may be cut off

    def _is_good(self, line: dict[str, Any]) -> bool:
        return "result" in line and line["asked"] == self._asked and (self._masks / f"{line['id']}.png").is_file()

    def _append(self, line: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _encoded(image: "ImageLike") -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        if not os.fspath(image):
            raise ValueError("The path of the image is empty.")
        return Path(image).read_bytes()
    if hasattr(image, "read"):
        return _read_opened(image)
    if not hasattr(image, "save"):
        raise TypeError(f"An image is a path, bytes, an opened file or a PIL.Image, not a {type(image).__name__}.")
    return _encoded_pixels(image)


def _encoded_pixels(image: "Image") -> bytes:
    """A file that holds all bits of an image and nothing else, turned as its EXIF says.

    Raises:
        ValueError: the endpoint would not read such pixels, or PIL does not hold those of the file.
    """
    if image.mode not in (*_AS_PNG, *_AS_TIFF):
        raise ValueError(f"Pixels of the kind {image.mode} are ambiguous: send image.convert('RGB'), or grey values.")
    if not image.width * image.height:
        raise ValueError(f"The image has {image.width} x {image.height} px.")
    try:
        return _turned_file(image)
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError):
        raise ValueError(
            "PIL cannot give the pixels of this image: its file is broken, cut off or closed, or its "
            "info['transparency'] is that of another mode."
        ) from None


def _turned_file(image: "Image") -> bytes:
    from PIL import ImageOps

    if not _is_faithful(image):
        raise ValueError("PIL does not hold all that the file of this image says: give its path, not the opened image.")
    xmp = image.info.pop("xmp", None)  # whose orientation does not count
    try:
        image.load()
    finally:
        if xmp is not None:
            image.info["xmp"] = xmp
    copy = image.copy()
    copy.info = {name: value for name, value in image.info.items() if name not in ("xmp", "XML:com.adobe.xmp")}
    turned = ImageOps.exif_transpose(copy)
    turned.info = {name: value for name, value in turned.info.items() if name == "transparency"}
    buffer = io.BytesIO()
    convert = {"I;16N": "I", "PA": "RGBA"}.get(image.mode, image.mode)
    plain = turned.convert(convert) if convert != image.mode else turned.copy()  # a copy has no tags
    plain.save(buffer, "PNG" if image.mode in _AS_PNG else "TIFF")
    return buffer.getvalue()


def _is_faithful(image: "Image") -> bool:
    """PIL keeps 8 of 16 bits of colours, and reads some wide samples of TIFF otherwise than its tags say."""
    if not image.mode.startswith(("I", "F")) and _has_wide_source(image):
        return False
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    bits, formats = max(tags.get(_BITS, (1,))), tags.get(_SAMPLE_FORMAT, 1)
    if max(tags.get(_COLORMAP, (2**16 - 1,))) < 2**8:
        return False  # PIL takes the high bytes
    if bits <= 8:
        return formats in (1, (1,), (1, 1, 1), (1, 1, 1, 1))
    is_uint32 = image.mode == "I" and bits == 32 and formats in (1, (1,))
    is_mixed_up = image.mode in ("I", "F") and tags.get(_COMPRESSION, 1) != 1 and getattr(tags, "prefix", b"") == b"MM"
    is_grey = image.mode not in ("RGB", "RGBA") and tags.get(_PHOTOMETRIC) == _BLACK_IS_ZERO
    return is_grey and not is_uint32 and not is_mixed_up


def _has_wide_source(image: "Image") -> bool:
    """Whether the samples that PIL is about to decode have more than 8 bits."""
    for codec, _, _, arguments in getattr(image, "tile", ()):
        last: Any = arguments[-1] if isinstance(arguments, tuple) else None
        is_wide = codec == "SGI16" or (codec == "sgi_rle" and last == 2)  # bytes of a sample
        is_wide |= codec in ("ppm", "ppm_plain") and last > 255  # the greatest value
        if is_wide or ";16" in str(arguments) or (codec == "jpeg2k" and _jpeg_2000_bits(image) > 8):
            return True
    return False


def _jpeg_2000_bits(image: Any) -> int:
    """Of a sample; by the code stream, since PIL does not tell."""
    position = image.fp.tell()
    image.fp.seek(0)
    _, _, code = image.fp.read().partition(b"\xff\x4f\xff\x51")
    image.fp.seek(position)
    return max((depth & 127) + 1 for depth in code[38:][: 3 * int.from_bytes(code[36:38]) : 3])


def _read_opened(file: Any) -> bytes:
    data = file.read()
    if not isinstance(data, bytes):
        raise TypeError("The file of the image is opened as text: open it with mode 'rb'.")
    return data


def _problem(response: httpx.Response) -> ProblemError:
    if response.headers.get("content-type") == "application/problem+json":
        document = response.json()
        return ProblemError(**{name: document[name] for name in ("status", "title", "detail", "cure", "request_id")})
    # Not ours: a proxy's, or Serve's own.
    request_id = response.headers.get("sa2va-request-id", "")
    cure = "Ask whoever runs the endpoint."
    return ProblemError(response.status_code, response.reason_phrase, response.text[:200], cure, request_id)


def _retry_after_s(response: httpx.Response, number: int) -> float:
    """Until the next try; infinite where another try would not help. Spread, so that clients do not come in step."""
    if response.status_code not in _BUSY:
        return float("inf")
    stated = response.headers.get("retry-after", "")
    return int(stated) + random.uniform(0, 0.5) if stated.isdigit() else _back_off_s(number)


def _back_off_s(number: int) -> float:
    """After the try of this number, from 1."""
    return min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2 ** (number - 1)) * random.uniform(0.5, 1)


def _check_outside(out: Path, folder: Path) -> None:
    images = folder.resolve()
    if any(place.resolve().is_relative_to(images) for place in (out, out / "masks")):
        raise ValueError(
            "`out` lies within `folder`, so that the next start would ask about its own masks. Choose one beside it."
        )


def _images_below(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _progress_bar(total: int, wanted: bool) -> Any:
    if wanted and find_spec("tqdm"):
        from tqdm import tqdm

        return tqdm(total=total, unit="image")
    return _NoBar()


class _NoBar:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        pass


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: AsyncClient) -> None:
    """Does not wait: it may run in the loop's own thread, where the garbage collector finds the client."""

    async def end() -> None:
        await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
