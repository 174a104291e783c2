"""From files to images: which images a file holds, and their content, read by the workers.

Names of files may tell a patient: no error here holds one, and `ImageItem` does not show them.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from sa2va_ray import storage
from sa2va_ray.images.checks import is_dicom
from sa2va_ray.images.decode import ImageError, decode_image_bytes, to_png
from sa2va_ray.manifest import sha256_of_file
from sa2va_ray.predict.job.sources import SourceFile

_ID_LENGTH = 16
_READ_ERRORS = (OSError, storage.StorageError, pa.ArrowException)  # their messages hold the path
_UNREADABLE = "file_unreadable: The file is missing, or not readable from a machine of the cluster."
_NO_VIDEO = "video_unreadable: The video is broken, or of a kind that FFmpeg does not read; save it as MP4 (H.264)."
_NO_FRAME = "video_unreadable: The video ended before this frame."


@dataclass(frozen=True)
class ImageItem:
    """One image.

    Attributes:
        id: pseudonym, the same wherever the file lies: the first 16 characters of `source_sha256`, `-` and the number
            of the frame where the file holds several; the `sample_id` in a prepared data set.
        frame: of a video or a DICOM run, from 0.
        row: in a Parquet file.
        source_sha256: of the file; of the file that was prepared, in a prepared data set; None if it is unreadable.
        error: why it cannot be predicted, known before it is decoded.
    """

    source: SourceFile = field(repr=False)
    id: str
    source_sha256: str | None
    frame: int | None = None
    row: int | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """That of the source, without suffix, and a folder for frames; the id for a sample. May tell a patient."""
        if self.source.kind == "samples":
            return self.id
        return self.source.stem if self.frame is None else f"{self.source.stem}/{self.frame:05d}"


def list_items(source: SourceFile, index: int) -> list[ImageItem]:
    """The images in a file: one, or one for each frame or sample. Reads all of it, to know its hash.

    Args:
        index: of the source in its list; stands in the id of a file that cannot be read.
    """
    try:
        if source.kind == "samples":
            return _samples(source)
        return _video_frames(source) if source.kind == "video" else _images(source)
    except _READ_ERRORS:
        return [ImageItem(source, f"unreadable-{index:06d}", None, error=_UNREADABLE)]


def read_images(items: Sequence[ImageItem], max_pixels: int) -> Iterator[tuple[ImageItem, bytes | None]]:
    """The encoded image of each item, None with the item's `error` set where there is none.

    Args:
        items: those of one video, one DICOM run, one Parquet file, or one image.
        max_pixels: as in `decode_image_bytes`, for frames that are decoded here.
    """
    if items[0].error:
        yield items[0], None
        return
    left = dict.fromkeys(items)
    try:
        for item, data in _read(items, max_pixels):
            del left[item]
            yield (item, data) if isinstance(data, bytes) else (replace(item, error=data.message), None)
    except _READ_ERRORS:
        for item in left:
            yield replace(item, error=_UNREADABLE), None


@dataclass(frozen=True)
class _Unusable:
    message: str


_CHANGED = _Unusable(
    "file_changed: The file is not the one that was listed any more, it was replaced while the job ran. Start it again."
)
_Read = Iterator[tuple[ImageItem, bytes | _Unusable]]


def _read(items: Sequence[ImageItem], max_pixels: int) -> _Read:
    source, frame = items[0].source, items[0].frame
    if source.kind == "samples":
        return _read_samples(items)
    if source.kind == "video":
        return _read_video(items)
    return _read_image(items[0]) if frame is None else _read_dicom(items, max_pixels)


def _samples(source: SourceFile) -> list[ImageItem]:
    rows = _parquet(source).read(columns=["sample_id", "source_sha256"]).to_pylist()
    return [ImageItem(source, each["sample_id"], each["source_sha256"], row=row) for row, each in enumerate(rows)]


def _images(source: SourceFile) -> list[ImageItem]:
    data = storage.read_bytes(source.uri)
    sha256 = hashlib.sha256(data).hexdigest()
    num_frames = _num_dicom_frames(data) if is_dicom(data) else 1
    return [ImageItem(source, sha256[:_ID_LENGTH], sha256)] if num_frames == 1 else _frames(source, sha256, num_frames)


def _video_frames(source: SourceFile) -> list[ImageItem]:
    with _local_video(source) as path:
        sha256 = sha256_of_file(path)
        video, num_frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), 0
        while video.grab():  # the header's count is an estimate
            num_frames += 1
        video.release()
    if not num_frames:
        return [ImageItem(source, sha256[:_ID_LENGTH], sha256, error=_NO_VIDEO)]
    return _frames(source, sha256, num_frames)


def _frames(source: SourceFile, sha256: str, num_frames: int) -> list[ImageItem]:
    return [ImageItem(source, f"{sha256[:_ID_LENGTH]}-{frame:05d}", sha256, frame) for frame in range(num_frames)]


def _num_dicom_frames(data: bytes) -> int:
    """1 for a file that is broken or cannot be read here: decoding it will tell why."""
    try:
        from sa2va_ray.images.formats import dicom

        return dicom.read_facts(data).num_frames
    except (ImageError, ModuleNotFoundError):
        return 1


def _read_image(item: ImageItem) -> _Read:
    data = storage.read_bytes(item.source.uri)
    yield item, data if hashlib.sha256(data).hexdigest() == item.source_sha256 else _CHANGED


def _read_samples(items: Sequence[ImageItem]) -> _Read:
    rows = [item.row for item in items if item.row is not None]
    columns = ["sample_id", "source_sha256", "image"]
    file = _parquet(items[0].source)
    found: list[dict[str, Any]] = [{} for _ in items]
    is_ours = file.num_row_groups == file.metadata.num_rows and set(columns) <= set(file.schema_arrow.names)
    if is_ours and max(rows) < file.num_row_groups:
        found = file.read_row_groups(rows, columns).to_pylist()
    for item, row in zip(items, found, strict=True):
        is_listed = (row.get("sample_id"), row.get("source_sha256")) == (item.id, item.source_sha256)
        yield item, row["image"] if is_listed else _CHANGED


def _read_dicom(items: Sequence[ImageItem], max_pixels: int) -> _Read:
    data = storage.read_bytes(items[0].source.uri)
    is_listed = hashlib.sha256(data).hexdigest() == items[0].source_sha256
    for item in items:
        try:
            yield item, to_png(decode_image_bytes(data, max_pixels, item.frame)) if is_listed else _CHANGED
        except ImageError as error:
            yield item, _Unusable(f"{error.code}: {error.reason}")


def _read_video(items: Sequence[ImageItem]) -> _Read:
    """Frame by frame from the start: seeking in a video is not exact."""
    wanted = {item.frame: item for item in items}
    with _local_video(items[0].source) as path:
        if sha256_of_file(path) != items[0].source_sha256:
            yield from ((item, _CHANGED) for item in items)
            return
        video, frame = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), 0
        while wanted and video.grab():
            if frame in wanted:
                yield wanted.pop(frame), to_png(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB))
            frame += 1
        video.release()
    for item in wanted.values():
        yield item, _Unusable(_NO_FRAME)


@contextmanager
def _local_video(source: SourceFile) -> Iterator[Path]:
    """The file under a name that tells nothing, since OpenCV and FFmpeg print the names of files that they refuse."""
    filesystem, path = storage.resolve(source.uri)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "video"
        if storage.is_local(source.uri):
            local.symlink_to(path)
        else:
            with filesystem.open_input_stream(path) as remote, local.open("wb") as file:
                shutil.copyfileobj(remote, file, 16 * 2**20)
        yield local


def _parquet(source: SourceFile) -> pq.ParquetFile:
    filesystem, path = storage.resolve(source.uri)
    return pq.ParquetFile(filesystem.open_input_file(path), pre_buffer=True)
