"""The samples of one split of a prepared data set, each read when it is asked for."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.order import RUNS_PER_WINDOW
from sa2va_ray.data.sample_kinds import read_phrases
from sa2va_ray.manifest import digest, read_manifest

_NEWER = ["ignored", "annotators", "pixel_spacing_mm"]  # which older data sets do not have
_COLUMNS = ["sample_id", "patient_id", "image", "objects", *_NEWER]
_NUM_READERS = 8  # files that are read at a time


def read_split(data_uri: str, split: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The manifest of a prepared data set; and the files of one of its splits in order, with the rows of each.

    Raises:
        UserError: no prepared data set, one of an older version, or the split has no samples.
    """
    manifest = read_manifest(data_uri, what="prepared data set")
    if "num_rows" not in manifest:
        raise UserError(f"{data_uri} was prepared by an older version of sa2va_ray. Prepare the data set again.")
    num_rows = {name: rows for name, rows in sorted(manifest["num_rows"].items()) if name.startswith(f"{split}-")}
    if not num_rows:
        raise UserError(
            f"{data_uri} has no samples in the split '{split}'. Prepare it with "
            "split.method=balanced, which gives each split its share, or add patients."
        )
    return manifest, num_rows


def check_same_data(data_uri: str, before: str, now: str) -> None:
    """
    Args:
        before, now: SHA-256 of the data set.

    Raises:
        UserError: they differ.
    """
    if before != now:
        raise UserError(
            f"The data set {data_uri} was written anew while it was in use: it was {before[:12]}, is {now[:12]}. "
            "Start anew, and prepare data sets beside those that are in use (out=...), not over them."
        )


class SampleIndex:
    """Random access to the rows of one split of a prepared data set.

    Its Parquet files hold one row per row group, so that reading a row is one range read; another request tells of each
    file whether it is still the one that was opened. At most 64 files are open, about 1 MB each: as many as `EpochPlan`
    mixes at a time.

    Attributes:
        data_sha256: of the data set, by its manifest.
        phrases: of the whole data set, sorted.

    Raises: as `read_split`.
    """

    def __init__(self, data_uri: str, split: str, data_sha256: str | None = None):
        """
        Args:
            data_sha256: of the data set that is meant; by default whichever is there.

        Raises:
            UserError: another one is there by now.
        """
        manifest, num_rows = read_split(data_uri, split)
        self._data_uri, self._split = data_uri, split
        self.data_sha256 = digest(manifest)
        check_same_data(data_uri, data_sha256 or self.data_sha256, self.data_sha256)
        self.phrases = read_phrases(manifest)
        self._uris = [storage.join(data_uri, name) for name in num_rows]
        self._starts = np.cumsum([0, *num_rows.values()])  # of each file, and the end of the last
        self._file = lru_cache(RUNS_PER_WINDOW)(self._open)
        self._threads = ThreadPoolExecutor(_NUM_READERS)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(np.array([index]))[0]

    def read(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """`_COLUMNS` of samples. All are asked for at once, so that a store's latency is waited for once.

        Raises:
            UserError: a file cannot be read; where the data set was damaged or written anew meanwhile, that.
        """
        wanted, places = np.unique(indices, return_inverse=True)
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        files = np.unique(numbers).tolist()
        rows = list(chain(*self._threads.map(self._read_file, files, [wanted[numbers == file] for file in files])))
        return [rows[place] for place in places]

    def _read_file(self, number: int, indices: np.ndarray) -> list[dict[str, Any]]:
        row_groups = (indices - self._starts[number]).tolist()
        try:
            file, modified_s = self._file(number)
            rows = file.read_row_groups(row_groups, columns=_COLUMNS, use_threads=False).to_pylist()
            is_same = storage.modified_s(self._uris[number]) == modified_s
        except (OSError, pa.ArrowException) as error:
            raise self._why_unreadable(number, error) from None
        if not is_same:  # a store reads an open file from what is there by now
            self._check_unchanged()
        return [{**dict.fromkeys(_NEWER), **row} for row in rows]

    def _why_unreadable(self, number: int, error: Exception) -> UserError:
        self._check_unchanged()
        return UserError(f"{self._uris[number]} cannot be read: {str(error).splitlines()[0]}")

    def _check_unchanged(self) -> None:
        manifest, _ = read_split(self._data_uri, self._split)
        check_same_data(self._data_uri, self.data_sha256, digest(manifest))

    def _open(self, number: int) -> tuple[pq.ParquetFile, float]:
        """A file, and when it was written."""
        filesystem, path = storage.resolve(self._uris[number])
        modified_s = storage.modified_s(self._uris[number])
        # Buffered ahead, the columns of a row come in one request, and those of several rows at the same time.
        file = pq.ParquetFile(filesystem.open_input_file(path), pre_buffer=True)
        self._check_unchanged()  # a data set that was written anew has other samples in files of the same names
        return file, modified_s
