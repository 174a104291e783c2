"""What a save leaves on a machine's disk, and how long it waits for a store."""

import json
import tempfile
import time
from pathlib import Path

import pytest

from sa2va_ray import storage
from sa2va_ray.manifest import MANIFEST
from sa2va_ray.storage import StorageError
from sa2va_ray.train.checkpoints import save
from sa2va_ray.train.checkpoints.beat import LOCK_FILE
from tests.train.saved_runs import OWNER, run_config, write_shard


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


@pytest.mark.parametrize("stops", [False, True])
def test_a_rank_that_sends_slowly_is_waited_for_and_one_that_sends_nothing_is_not(tmp_path, monkeypatch, stops):
    """Counted from the end of rank 0's own upload, all of the others had ten minutes."""
    config, clock_s = run_config(tmp_path / "runs"), [0.0]
    uri = f"{config.runs_uri}/run/step_00000001"
    storage.write_bytes(f"{config.runs_uri}/run/{LOCK_FILE}", json.dumps({"owner": OWNER}).encode())
    own, slow = (write_shard(tmp_path / f"rank{rank}", 1, config, rank, 2) for rank in (0, 1))
    left = sorted(slow.iterdir(), key=lambda file: file.name.startswith("shard"))  # its manifest comes last
    left = left[:1] if stops else left

    def pause(seconds: float) -> None:
        clock_s[0] += 100
        if left and clock_s[0] % 500 == 0:
            storage.upload_file(left[0], f"{uri}/{left.pop(0).name}")

    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])
    shard = save.CheckpointShard(own, config, "step_00000001", 0, 2, "1 by 2", OWNER)
    if stops:
        with pytest.raises(RuntimeError, match=r"Nothing more of the shares of .* in 600 s; that of rank 1 is not"):
            save.upload_shard(shard)
    else:
        save.upload_shard(shard)
        assert clock_s[0] == 1500
        assert storage.exists(f"{uri}/{MANIFEST}")


def test_a_manifest_of_a_share_that_is_being_written_is_waited_for(tmp_path, monkeypatch):
    """On a disk that ranks share a file comes byte by byte: rank 0, which looks for it, ended the run."""
    config = run_config(tmp_path / "runs")
    uri = f"{config.runs_uri}/run/step_00000001"
    storage.write_bytes(f"{config.runs_uri}/run/{LOCK_FILE}", json.dumps({"owner": OWNER}).encode())
    own, other = (write_shard(tmp_path / f"rank{rank}", 1, config, rank, 2) for rank in (0, 1))
    last = save._shard_manifest_name(1)
    whole = (other / last).read_bytes()
    storage.upload_folder(other, uri, last=last)
    sizes = [100, len(whole)]
    Path(uri, last).write_bytes(b"")
    monkeypatch.setattr(time, "sleep", lambda pause_s: Path(uri, last).write_bytes(whole[: sizes.pop(0)]) and None)
    save.upload_shard(save.CheckpointShard(own, config, "step_00000001", 0, 2, "1 by 2", OWNER))
    assert sizes == []
    assert storage.exists(f"{uri}/{MANIFEST}")


def test_what_killed_workers_of_a_run_left_on_the_disk_is_deleted_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own, other = (run_config(tmp_path / "runs", f"name={name}") for name in ("own", "other"))
    folders = {each.name: Path(tempfile.mkdtemp(prefix=save._local_prefix(each))) for each in (own, other)}
    for folder in folders.values():
        (folder / "model.safetensors").write_bytes(b"gigabytes")
    save.delete_local_remains(own)
    assert not folders["own"].exists()
    assert (folders["other"] / "model.safetensors").exists()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # of another demo on this machine
    save.delete_local_remains(other)
    assert (folders["other"] / "model.safetensors").exists()
