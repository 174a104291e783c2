"""What a worker looks at before it builds a model."""

import pytest

from sa2va_ray.manifest import MANIFEST, digest, read_manifest, write_manifest
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.session import _check_data


@pytest.mark.usefixtures("one_rank")
def test_a_worker_that_is_started_again_trains_on_no_other_data_than_the_run_began_with(tmp_path):
    (tmp_path / "train-00000.parquet").write_bytes(b"old")
    write_manifest(tmp_path, {"num_rows": {"train-00000.parquet": 1}})
    data_sha256 = digest(read_manifest(str(tmp_path)))
    _check_data(str(tmp_path), data_sha256)
    (tmp_path / "train-00000.parquet").write_bytes(b"new")
    (tmp_path / MANIFEST).unlink()
    write_manifest(tmp_path, {"num_rows": {"train-00000.parquet": 1}})
    with pytest.raises(RunStoppedError, match=f"written anew while it was in use: it was {data_sha256[:12]}, is"):
        _check_data(str(tmp_path), data_sha256)
    (tmp_path / "train-00000.parquet").unlink()
    with pytest.raises(RunStoppedError, match="has no bytes, its manifest says 3"):
        _check_data(str(tmp_path), data_sha256)
