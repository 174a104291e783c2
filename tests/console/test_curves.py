"""TensorBoard for runs on a store."""

import socket
import subprocess
import sys

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


def test_tensorboard_says_what_matters_and_no_more(tmp_path):
    (tmp_path / "events.out.tfevents.1").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        call = f"show_curves({str(tmp_path)!r}, {taken.getsockname()[1]})"
        script = f"from sa2va_ray.console.curves import show_curves; {call}"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "UserError: TensorBoard ended with status" in done.stderr
    assert "could not bind to port" in done.stderr.partition("Traceback")[0]
    assert "TensorFlow" not in done.stderr
