"""Which images are in a file, and their pixels."""

import hashlib
import io

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage

from sa2va_ray import storage
from sa2va_ray.predict.job.items import list_items, read_images
from sa2va_ray.predict.job.sources import SourceFile

NUM_FRAMES = 5
MAX_PIXELS = 10_000


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "DoeJane"


def write(path, data: bytes) -> SourceFile:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return SourceFile("video" if path.suffix == ".avi" else "image", str(path), path.name)


def video(path) -> SourceFile:
    """Frame n is of the grey value 40 n."""
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for number in range(NUM_FRAMES):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    return SourceFile("video", str(path), path.name)


def dicom_run() -> bytes:
    """Frame n is of the value 40 n."""
    run = Dataset()
    run.file_meta = FileMetaDataset()
    run.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    run.file_meta.MediaStorageSOPClassUID = run.SOPClassUID = XRayAngiographicImageStorage
    run.file_meta.MediaStorageSOPInstanceUID = run.SOPInstanceUID = "1.2.3.4"
    run.NumberOfFrames, run.Rows, run.Columns, run.SamplesPerPixel = NUM_FRAMES, 20, 30, 1
    run.PhotometricInterpretation, run.PixelRepresentation = "MONOCHROME2", 0
    run.BitsAllocated = run.BitsStored = 8
    run.HighBit = 7
    run.PixelData = np.repeat(40 * np.arange(NUM_FRAMES, dtype=np.uint8), 20 * 30).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, run, enforce_file_format=True)
    return buffer.getvalue()


def values(items) -> dict[int | None, int]:
    return {
        item.frame: round(float(np.asarray(Image.open(io.BytesIO(data))).mean()))
        for item, data in read_images(items, MAX_PIXELS)
    }


def test_an_image_is_one_item_called_by_its_hash(folder):
    source = write(folder / "x.png", b"any bytes")
    (item,) = list_items(source, 0)
    sha256 = hashlib.sha256(b"any bytes").hexdigest()
    assert (item.id, item.source_sha256, item.frame, item.error) == (sha256[:16], sha256, None, None)
    assert list(read_images([item], MAX_PIXELS)) == [(item, b"any bytes")]


@pytest.mark.parametrize("kind", ["video", "dicom"])
def test_a_run_is_an_item_for_each_frame(folder, kind):
    source = video(folder / "run.avi") if kind == "video" else write(folder / "run.dcm", dicom_run())
    items = list_items(source, 0)
    sha256 = hashlib.sha256((folder / source.name).read_bytes()).hexdigest()
    assert [item.id for item in items] == [f"{sha256[:16]}-{frame:05d}" for frame in range(NUM_FRAMES)]
    assert [item.name for item in items] == [f"run/{frame:05d}" for frame in range(NUM_FRAMES)]
    # Motion JPEG is lossy: a flat grey comes back within 2 values.
    assert values(items) == pytest.approx({frame: 40 * frame for frame in range(NUM_FRAMES)}, abs=2)


@pytest.mark.parametrize("kind", ["video", "dicom"])
def test_some_frames_of_a_run(folder, kind):
    source = video(folder / "run.avi") if kind == "video" else write(folder / "run.dcm", dicom_run())
    items = list_items(source, 0)
    assert values([items[1], items[4]]) == pytest.approx({1: 40, 4: 160}, abs=2)


def test_a_video_in_a_store(bucket_uri, tmp_path):
    video(tmp_path / "run.avi")
    storage.write_bytes(f"{bucket_uri}/run.avi", (tmp_path / "run.avi").read_bytes())
    items = list_items(SourceFile("video", f"{bucket_uri}/run.avi", "run.avi"), 0)
    assert values(items[2:3]) == pytest.approx({2: 80}, abs=2)


def test_a_broken_video_says_so_without_its_name(folder, capfd):
    source = write(folder / "Mueller.avi", b"RIFF, but no video")
    (item,) = list_items(source, 0)
    assert item.error.startswith("video_unreadable: ")
    assert list(read_images([item], MAX_PIXELS)) == [(item, None)]
    printed = "".join(capfd.readouterr())
    assert not [name for name in ("Mueller", "DoeJane") if name in printed]


def test_a_frame_that_is_missing_when_it_is_read(folder):
    items = list_items(video(folder / "run.avi"), 0)
    beyond = type(items[0])(items[0].source, "id", "0", NUM_FRAMES)
    (first, data), (missing, nothing) = read_images([items[0], beyond], MAX_PIXELS)
    assert (first, missing.error, nothing) == (items[0], "video_unreadable: The video ended before this frame.", None)
    assert data is not None


@pytest.mark.parametrize("kind", ["image", "video", "dicom", "samples"])
def test_a_file_that_is_replaced_later_is_not_predicted_under_the_old_ones_hash(folder, kind):
    if kind == "video":
        source = video(folder / "run.avi")
    elif kind == "samples":
        source = write_samples(folder / "train-00000.parquet", 1)
    else:
        source = write(folder / "x.dcm", dicom_run() if kind == "dicom" else b"an image")
    items = list_items(source, 0)
    if kind == "samples":
        write_samples(folder / "train-00000.parquet", 2)
    else:
        (folder / source.name).write_bytes((folder / source.name).read_bytes() + b"!")
    read = list(read_images(items, MAX_PIXELS))
    assert len(read) == len(items)
    assert {(item.error.partition(":")[0], data) for item, data in read} == {("file_changed", None)}


@pytest.mark.parametrize(
    "change",
    [{"num_rows": 1}, {"num_rows": 6, "rows_of_a_group": 2}, {"left_out": "source_sha256"}, {"left_out": "image"}],
)
def test_samples_of_another_layout_are_not_those_that_were_listed(folder, change):
    """Rows of several in a group were a `ValueError`, which ended the job."""
    items = list_items(write_samples(folder / "train-00000.parquet", 1), 0)
    write_samples(folder / "train-00000.parquet", 1, **change)
    assert {item.error.partition(":")[0] for item, _ in read_images(items, MAX_PIXELS)} == {"file_changed"}


def write_samples(path, number: int, num_rows: int = 3, rows_of_a_group: int = 1, left_out: str = "") -> SourceFile:
    path.parent.mkdir(exist_ok=True)
    rows = [{"sample_id": f"s{row}", "source_sha256": f"{number}", "image": b"x"} for row in range(num_rows)]
    kept = [name for name in rows[0] if name != left_out]
    pq.write_table(pa.Table.from_pylist(rows).select(kept), path, row_group_size=rows_of_a_group)
    return SourceFile("samples", str(path), path.name)


def test_a_frame_that_is_too_large(folder):
    items = list_items(write(folder / "run.dcm", dicom_run()), 0)
    assert {item.error.partition(":")[0] for item, _ in read_images(items, max_pixels=100)} == {"image_too_large"}


def test_a_missing_file_is_an_item_with_an_error(folder):
    (item,) = list_items(SourceFile("image", str(folder / "Doe.png"), "Doe.png"), 7)
    assert (item.id, item.source_sha256) == ("unreadable-000007", None)
    assert item.error.startswith("file_unreadable")
    assert "Doe" not in repr(item)


def test_a_file_that_goes_missing_later(folder):
    source = write(folder / "Doe.png", b"bytes")
    items = list_items(source, 0)
    (folder / "Doe.png").unlink()
    ((item, data),) = read_images(items, MAX_PIXELS)
    assert data is None
    assert item.error.startswith("file_unreadable")
    assert "Doe" not in item.error
