"""TensorBoard for runs on a store: `sa2va-ray tensorboard`."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sa2va_ray import storage
from sa2va_ray.config import UserError

_EVERY_S = 15.0
_EVENTS = "events.out.tfevents"


def show_curves(uri: str, port: int) -> None:
    """Runs TensorBoard on the event files of a run, or of all runs below a folder, until it is interrupted or ends.
    Those on a store are copied again when they have grown.

    Raises:
        UserError: there are no event files, the store does not answer, or TensorBoard does not start.
    """
    if not _event_files(uri):
        raise UserError(
            f"There are no curves below {uri}. Give a run, runs_uri/NAME, or a folder of runs; a run writes its first "
            "curve after log_every_steps steps."
        )
    if storage.is_local(uri):
        _run_tensorboard(storage.resolve(uri)[1], port).wait()
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = fetch_grown(uri, Path(folder), {})
        process = _run_tensorboard(folder, port)
        try:
            while process.poll() is None:
                time.sleep(_EVERY_S)
                sizes = fetch_grown(uri, Path(folder), sizes)
        finally:
            process.terminate()
            process.wait()
    if process.returncode:
        raise UserError(f"TensorBoard ended with status {process.returncode}; its own message stands above.")


def _event_files(uri: str) -> dict[str, int]:
    return {name: size for name, size in storage.list_files(uri).items() if _EVENTS in name}


def fetch_grown(uri: str, folder: Path, known: dict[str, int]) -> dict[str, int]:
    """Copies the files whose sizes are not the known ones; returns the sizes now."""
    sizes = _event_files(uri)
    storage.download_files(uri, [name for name, size in sizes.items() if known.get(name) != size], folder)
    return sizes


def _run_tensorboard(folder: str, port: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", str(port), "--host", "127.0.0.1"]
    return subprocess.Popen(command)
