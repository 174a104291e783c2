"""Folders of images: a mask and a line of results for each image, made again only where something has changed."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from sa2va_ray.client.errors import ForeignReplyError, ProblemError
from sa2va_ray.client.results import Result
from sa2va_ray.client.retries import BUSY, NO_REPLY

_SUFFIXES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".tif",
    ".tiff",
    ".bmp",
    ".webp",
    ".gif",
    ".pgm",
    ".ppm",
    ".pbm",
    ".pnm",
    ".dcm",
    ".dicom",
}
_ID_LENGTH = 16  # as in jobs.predict
_NOT_OF_THE_IMAGE = (401, 403, 404, *BUSY)
_TOO_LARGE = 413


@dataclass
class FolderCounts:
    """How many masks of a folder were made, were there already, or could not be made."""

    done: int = 0
    skipped: int = 0
    bad: int = 0


async def segment_files(
    segment: Callable[[bytes], Awaitable[Result]],
    asked: dict[str, Any],
    folder: Path,
    out: Path,
    concurrency: int,
    progress: bool,
) -> FolderCounts:
    """Segments the images in and below `folder`; see `AsyncClient.segment_folder`.

    Args:
        segment: asks the endpoint about the bytes of a file.
        asked: prompt, options and model; results in `out` that were made with others are made again.
        concurrency: images under way at a time.

    Raises:
        EndpointError: what is no fault of an image.
    """
    results, paths = _Results(out, asked), _images_below(folder)
    with _progress_bar(len(paths), progress) as bar:
        queue = iter(paths)

        async def work() -> None:
            for path in queue:
                await _segment_file(segment, path, results)
                bar.update()

        workers = [asyncio.create_task(work()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
    return results.counts


async def _segment_file(segment: Callable[[bytes], Awaitable[Result]], path: Path, results: "_Results") -> None:
    data = await asyncio.to_thread(path.read_bytes)
    id = hashlib.sha256(data).hexdigest()[:_ID_LENGTH]
    if not results.claim(id):
        return
    try:
        result = await segment(data)
    except ProblemError as problem:
        if not _is_of_the_image(problem):
            raise
        results.add_problem(id, problem)
    else:
        await asyncio.to_thread(results.write_mask, id, result)
        results.add(id, result)


def _is_of_the_image(problem: ProblemError) -> bool:
    """A proxy knows nothing of images, but for their size."""
    if isinstance(problem, ForeignReplyError):
        return problem.status == _TOO_LARGE
    return problem.status not in _NOT_OF_THE_IMAGE


def check_folders(folder: Path, out: Path) -> None:
    """
    Raises:
        NotADirectoryError: `folder` is none.
        ValueError: `out` is `folder` or lies in it.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder of images.")
    images = folder.resolve()
    if any(place.resolve().is_relative_to(images) for place in (out, out / "masks")):
        raise ValueError(
            "`out` lies within `folder`, so that the next start would ask about its own masks. Choose one beside it."
        )


class _Results:
    """The results in a folder: those that were there, and those that are added."""

    def __init__(self, out: Path, asked: dict[str, Any]):
        """
        Args:
            asked: prompt, options and model; results that were made with others are dropped.
        """
        self.counts, self._asked, self._masks = FolderCounts(), json.loads(json.dumps(asked)), out / "masks"
        self._masks.mkdir(parents=True, exist_ok=True)
        self._file = out / "results.jsonl"
        kept = {line["id"]: line for line in self._read() if self._is_good(line)}
        self._claimed = set(kept)
        partial = _beside(self._file)
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

        file = self._masks / f"{id}.png"
        partial = _beside(file)
        Image.fromarray(result.union()).convert("L").save(partial, "PNG")
        partial.replace(file)

    def add(self, id: str, result: Result) -> None:
        self._append({"id": id, "asked": self._asked, "result": asdict(result)})
        self.counts.done += 1

    def add_problem(self, id: str, problem: ProblemError) -> None:
        self._append({"id": id, "asked": self._asked, "problem": vars(problem)})
        self.counts.bad += 1

    def _read(self) -> Iterator[dict[str, Any]]:
        for line in self._file.read_bytes().splitlines() if self._file.exists() else []:
            with suppress(*NO_REPLY):  # cut off, or damaged by a power cut or another writer: made again
                if isinstance(found := json.loads(line), dict):
                    yield found

    def _is_good(self, line: dict[str, Any]) -> bool:
        is_asked = "result" in line and line.get("asked") == self._asked
        mask = self._masks / f"{line.get('id')}.png"
        return is_asked and mask.is_file() and mask.stat().st_size > 0  # a power cut may leave an empty one

    def _append(self, line: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _beside(file: Path) -> Path:
    """A name for what is to replace a file, that no other call on the same folder has."""
    return file.with_name(f".{file.stem}.{uuid.uuid4().hex}.part")


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
