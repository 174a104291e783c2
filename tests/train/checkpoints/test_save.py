"""What a save leaves on a machine's disk, and how long it waits for a store."""

import tempfile
import time
from pathlib import Path

import pytest

from sa2va_ray.storage import StorageError
from sa2va_ray.train.checkpoints import save
from tests.train.saved_runs import run_config


def test_the_patience_begins_with_the_first_failure(monkeypatch):
    """Gigabytes may take longer where all is well; their first hiccup ended the run."""
    monkeypatch.setattr(time, "sleep", lambda pause_s: None)
    clock_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])

    def of_eleven_minutes(number_of_failures: int):
        left = [number_of_failures]

        def operation():
            clock_s[0] += 660
            left[0] -= 1
            if left[0] >= 0:
                raise StorageError("busy")
            return "stored"

        return operation

    assert save._retry(of_eleven_minutes(1), "step_1", patience_s=600) == "stored"
    with pytest.raises(RuntimeError, match="could not be stored in 660 s"):
        save._retry(of_eleven_minutes(2), "step_1", patience_s=600)


def test_what_killed_workers_of_a_run_left_on_the_disk_is_deleted_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own, other = (run_config(tmp_path / "runs", f"name={name}") for name in ("own", "other"))
    folders = {each.name: Path(tempfile.mkdtemp(prefix=save._local_prefix(each))) for each in (own, other)}
    for folder in folders.values():
        (folder / "model.safetensors").write_bytes(b"gigabytes")
    save.delete_local_remains(own)
    assert not folders["own"].exists()
    assert (folders["other"] / "model.safetensors").exists()
