"""TensorBoard for runs on a store: `sa2va-ray tensorboard`."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sa2va_ray import noise, storage
from sa2va_ray.config import UserError

_EVERY_S = 15.0
_EVENTS = "events.out.tfevents"


def show_curves(uri: str, port: int) -> None:
    """Runs TensorBoard on the event files of a run, or of all runs below a folder, until it is interrupted or ends.
    Those on a store are copied again when they have grown.

    Raises:
        UserError: there are no event files, the store does not answer, or TensorBoard does not start.
    """
    uri = storage.absolute(uri)
    if not _event_files(uri):
        raise UserError(
            f"There are no curves below {uri}. Give a run, runs_uri/NAME, or a folder of runs; a run writes its first "
            "curve after log_every_steps steps."
        )
    if storage.is_local(uri):
        with _tensorboard(storage.resolve(uri)[1], port) as process:
            process.wait()
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = fetch_grown(uri, Path(folder), {})
        with _tensorboard(folder, port) as process:
            while process.poll() is None:
                time.sleep(_EVERY_S)
                sizes = fetch_grown(uri, Path(folder), sizes)


def _event_files(uri: str) -> dict[str, int]:
    return {name: size for name, size in storage.list_files(uri).items() if _EVENTS in name}


def fetch_grown(uri: str, folder: Path, known: dict[str, int]) -> dict[str, int]:
    """Copies the files whose sizes are not the known ones; returns the sizes now."""
    sizes = _event_files(uri)
    storage.download_files(uri, [name for name, size in sizes.items() if known.get(name) != size], folder)
    return sizes


@contextmanager
def _tensorboard(folder: str, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """TensorBoard with its data server, both of which end with this."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stderr
    with process.stderr as said:  # filtered by a process of its own, which ends with that stream
        reader = subprocess.Popen([sys.executable, "-I", noise.__file__], stdin=said, stdout=2, start_new_session=True)
    try:
        yield process
        if process.returncode:
            raise UserError(
                f"TensorBoard ended with status {process.returncode}; its own message stands "
                "above. Where the port is taken, give another --port."
            )
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        with suppress(subprocess.TimeoutExpired):
            reader.wait(timeout=5)
