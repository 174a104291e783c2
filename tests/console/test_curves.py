"""TensorBoard for runs on a store."""

import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.console.curves import fetch_grown, show_curves


def test_files_that_have_grown_are_fetched_again(bucket_uri, tmp_path):
    events = storage.join(bucket_uri, "demo/tensorboard/events.out.tfevents.1")
    storage.write_bytes(events, b"1")
    storage.write_bytes(storage.join(bucket_uri, "demo/run.json"), b"{}")
    sizes = fetch_grown(bucket_uri, tmp_path, {})
    copy = tmp_path / "demo/tensorboard/events.out.tfevents.1"
    assert (copy.read_bytes(), [*tmp_path.glob("**/*.json")]) == (b"1", [])
    copy.write_bytes(b"x")
    assert fetch_grown(bucket_uri, tmp_path, sizes) == sizes
    assert copy.read_bytes() == b"x"
    storage.write_bytes(events, b"12")
    fetch_grown(bucket_uri, tmp_path, sizes)
    assert copy.read_bytes() == b"12"


def test_a_run_without_curves_is_told(tmp_path):
    with pytest.raises(UserError, match="There are no curves below"):
        show_curves(str(tmp_path), 6006)
