"""Samples are found by their number, in whichever file they are."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.data import sample_index
from sa2va_ray.data.sample import SCHEMA, annotator_masks, ignored_mask
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.manifest import MANIFEST, write_manifest
from tests.data.conftest import to_row


def test_samples_are_found_across_files(damaged_uri):
    samples = SampleIndex(damaged_uri, "train")
    assert [samples[index]["sample_id"] for index in range(len(samples))] == [f"sample{index}" for index in range(9)]


def test_few_files_are_open_at_a_time(damaged_uri, monkeypatch):
    monkeypatch.setattr(sample_index, "RUNS_PER_WINDOW", 1)
    opened: list[int] = []
    open_file = SampleIndex._open

    def count(self: SampleIndex, number: int) -> tuple[pq.ParquetFile, float]:
        opened.append(number)
        return open_file(self, number)

    monkeypatch.setattr(SampleIndex, "_open", count)
    samples = SampleIndex(damaged_uri, "train")
    assert opened == []
    for index in (0, 1, 5, 6, 0):
        samples[index]
    assert opened == [0, 1, 0]


def test_an_empty_split_is_an_error(damaged_uri):
    with pytest.raises(UserError, match="no samples in the split 'test'"):
        SampleIndex(damaged_uri, "test")


def test_data_sets_of_before_are_read(tmp_path):
    """They have none of the columns that came later."""
    later = {"ignored", "annotators", "pixel_spacing_mm"}
    schema = pa.schema([field for field in SCHEMA if field.name not in later])
    pq.write_table(pa.Table.from_pylist([to_row(0)], schema=schema), tmp_path / "train-00000.parquet", row_group_size=1)
    write_manifest(tmp_path, {"num_rows": {"train-00000.parquet": 1}})
    sample = SampleIndex(str(tmp_path), "train")[0]
    assert {name: sample[name] for name in later} == dict.fromkeys(later)
    assert ignored_mask(sample) is None
    assert annotator_masks(sample, "line").shape == (0, 64, 64)


@pytest.fixture
def write_data(tmp_path):
    """Writes a data set of three samples with names of the given length into the test's folder, over what is there."""

    def write(size: int, first: int = 0) -> str:
        (tmp_path / MANIFEST).unlink(missing_ok=True)
        rows = [to_row(index) | {"sample_id": f"{first + index}" * size} for index in range(3)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "train-00000.parquet", row_group_size=1)
        write_manifest(tmp_path, {"num_rows": {"train-00000.parquet": len(rows)}})
        return str(tmp_path)

    return write


def test_a_data_set_that_was_written_anew_under_its_reader_is_told_as_that(write_data):
    samples = SampleIndex(write_data(20), "train")
    samples[0]  # opens the file
    write_data(1)
    with pytest.raises(UserError, match=rf"written anew while it was in use: it was {samples.data_sha256[:12]}, is \w"):
        samples[2]


def test_samples_of_the_same_size_are_not_taken_for_those_that_were_there(write_data):
    """An open file of a store is read from what is there by now: the new samples came under the old ones' hash."""
    samples = SampleIndex(write_data(20), "train")
    samples[0]
    write_data(20)
    assert samples[1]["sample_id"] == "1" * 20, "written anew as it was, it is the same data set"
    write_data(20, first=5)
    with pytest.raises(UserError, match="written anew while it was in use"):
        samples[1]


def test_a_file_that_is_opened_after_the_data_set_was_written_anew_is_not_read(write_data):
    samples = SampleIndex(write_data(20), "train")
    write_data(1)
    with pytest.raises(UserError, match="written anew while it was in use"):
        samples[2]
    with pytest.raises(UserError, match="written anew while it was in use"):
        SampleIndex(write_data(2), "train", samples.data_sha256)


def test_a_file_that_was_damaged_under_its_reader_is_told_as_that(write_data, tmp_path):
    samples, file = SampleIndex(write_data(1), "train"), tmp_path / "train-00000.parquet"
    samples[0]
    size = file.stat().st_size
    file.write_bytes(b"x" * size)
    with pytest.raises(UserError, match=r"train-00000\.parquet cannot be read: "):
        samples[2]
    file.write_bytes(b"x")
    with pytest.raises(UserError, match=rf"train-00000\.parquet has 1 bytes, its manifest says {size}"):
        samples[2]
