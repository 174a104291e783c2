"""One job at a time trains a run, in a local folder and in a store."""

import json
import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import write_manifest
from sa2va_ray.submission import JOB_CONFIG_VARIABLE
from sa2va_ray.train.checkpoints import lock as lock_module
from sa2va_ray.train.checkpoints.beat import LOCK_FILE
from sa2va_ray.train.checkpoints.lock import LockLostError, RunLock, check_owner
from sa2va_ray.train.trainer import train
from tests.train.saved_runs import OWNER, run_config, save

BEAT_S, DEAD_S = 0.1, 1.0


@pytest.fixture(params=["local", pytest.param("store", marks=pytest.mark.cluster)])
def run_uri(request, tmp_path):
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("bucket_uri")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock_module, "_POLL_S", 0.1)
    monkeypatch.setattr(lock_module, "_SETTLE_S", 0.05)


def new_lock(run_uri, dead_s=DEAD_S):
    return RunLock(run_uri, BEAT_S, dead_s)


def holder_of(run_uri):
    return json.loads(storage.read_bytes(f"{run_uri}/{LOCK_FILE}"))["owner"]


def test_a_second_job_is_refused_and_told_who_and_since_when_and_how(run_uri):
    with new_lock(run_uri) as first:
        first.confirm()
        record = json.loads(storage.read_bytes(f"{run_uri}/{LOCK_FILE}"))
        with pytest.raises(UserError) as refusal, new_lock(run_uri):
            pass
        assert holder_of(run_uri) == first.owner
    for told in (f"process {os.getpid()} on {socket.gethostname()}", record["since"], f"{run_uri}/{LOCK_FILE}"):
        assert told in str(refusal.value)
    assert "end that job and start this one again" in str(refusal.value)
    assert not storage.exists(f"{run_uri}/{LOCK_FILE}")
    with new_lock(run_uri) as third:  # at once, since the first has ended in order
        third.confirm()


def test_a_submitted_job_is_told_by_its_id_and_how_it_is_watched_and_ended(tmp_path, monkeypatch):
    job = {"metadata": {"job_submission_id": "raysubmit_x"}}
    monkeypatch.setenv(JOB_CONFIG_VARIABLE, json.dumps(job))
    with new_lock(str(tmp_path)):
        monkeypatch.delenv(JOB_CONFIG_VARIABLE)
        with pytest.raises(UserError, match="Ray job raysubmit_x, process") as refusal, new_lock(str(tmp_path)):
            pass
    for command in ("ray job logs --follow raysubmit_x", "ray job stop raysubmit_x"):
        assert command in str(refusal.value)


@pytest.mark.parametrize(
    "left",
    [b"", b"{", b"[]", b'{"owner": "dead", "since": "1999-01-01"}', b'{"owner": "dead", "since": "2099-01-01"}'],
    ids=["empty", "cut", "other", "a clock behind", "a clock ahead"],
)
def test_a_dead_jobs_lock_is_taken_over_whatever_the_clocks_say(tmp_path, left):
    """After `dead_after_s` of the watcher's own clock; no other time is looked at."""
    (tmp_path / LOCK_FILE).write_bytes(left)
    start_s = time.monotonic()
    with new_lock(str(tmp_path)) as lock:
        assert DEAD_S <= time.monotonic() - start_s < 60
        lock.confirm()


def test_a_lock_that_is_given_back_is_not_waited_for(tmp_path):
    dead_s = 60
    first = new_lock(str(tmp_path), dead_s).__enter__()
    first._stop.set()  # no more beats: without its end the second would wait
    first._renewer.join()
    ending = threading.Timer(0.3, first.__exit__, (None, None, None))
    ending.start()
    start_s = time.monotonic()
    with new_lock(str(tmp_path), dead_s) as second:
        assert time.monotonic() - start_s < dead_s
        second.confirm()
    ending.join()


def test_a_job_whose_run_was_taken_over_knows_and_leaves_it_alone(run_uri):
    """It was stopped for longer than its lock is good for (SIGSTOP, a machine that slept)."""
    with new_lock(run_uri) as first:
        first._stop.set()
        first._renewer.join()
        with new_lock(run_uri) as second:
            second.confirm()
            with pytest.raises(LockLostError, match="was taken over; it is held by process"):
                check_owner(run_uri, first.owner)
            first._stop.clear()
            first._renew_until_stopped()  # goes on, and ends by itself
            first.__exit__(None, None, None)
            assert holder_of(run_uri) == second.owner
        storage.write_bytes(f"{run_uri}/{LOCK_FILE}", b"{}")  # so that the first has something to leave alone


def test_of_two_that_start_at_once_one_trains(run_uri, monkeypatch):
    """Both have seen no lock before either wrote one."""
    with monkeypatch.context() as patch:
        patch.setattr(lock_module, "_read", lambda uri: None)
        patch.setattr(RunLock, "_renew_until_stopped", lambda self: None)
        locks = [new_lock(run_uri).__enter__() for _ in range(2)]
    with pytest.raises(LockLostError):
        locks[0].confirm()
    locks[1].confirm()
    for lock in locks:
        lock.__exit__(None, None, None)
    assert not storage.exists(f"{run_uri}/{LOCK_FILE}")


def test_two_that_start_at_the_same_moment_are_told_so_or_train(tmp_path, monkeypatch):
    """Neither waits for the other: whatever the moment is, no error but a refusal."""
    monkeypatch.setattr(lock_module, "_SETTLE_S", 1.0)
    monkeypatch.setattr(lock_module, "_POLL_S", 0.02)
    pairs = [[RunLock(f"{tmp_path}/{number}", 0.02, DEAD_S) for _ in range(2)] for number in range(20)]
    start = threading.Barrier(2)

    def enter(lock):
        start.wait()
        try:
            return lock.__enter__()
        except UserError:
            return None

    def is_confirmed(lock):
        try:
            lock.confirm()
        except LockLostError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        entered = [[lock for lock in pool.map(enter, pair) if lock] for pair in pairs]
    assert [sum(map(is_confirmed, locks)) for locks in entered] == [1] * len(pairs)
    for lock in [lock for locks in entered for lock in locks]:
        lock.__exit__(None, None, None)


def test_a_beat_that_fails_is_heard_and_the_next_one_comes(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(RunLock, "_write", lambda self: [][0])
        lock = new_lock(str(tmp_path))
        monkeypatch.setattr(lock, "_stop", Beats(2))
        storage.write_bytes(f"{tmp_path}/{LOCK_FILE}", json.dumps(lock._record).encode())
        lock._renew_until_stopped()
    assert len([record for record in caplog.records if record.exc_info]) == 2


class Beats:
    """Stops a heart behind so many of them."""

    def __init__(self, number):
        self.left = number

    def wait(self, timeout_s):
        self.left -= 1
        return self.left < 0


def test_a_store_that_hangs_is_not_taken_for_a_dead_job(tmp_path, monkeypatch):
    """Its reads take longer than a lock is good for; in between the owner lives."""
    with new_lock(str(tmp_path)):
        read = lock_module._read

        def slow(uri):
            if threading.current_thread() is threading.main_thread():
                time.sleep(1.5 * DEAD_S)
            return read(uri)

        monkeypatch.setattr(lock_module, "_read", slow)
        with pytest.raises(UserError, match="Another job trains the run"), new_lock(str(tmp_path)):
            pass
        monkeypatch.undo()


def test_a_job_that_lost_the_run_touches_no_checkpoint(tmp_path, monkeypatch):
    config = run_config(tmp_path / "runs")
    uri = save(tmp_path / "disk", 10, config)
    before = {name: storage.sha256(f"{uri}/{name}") for name in storage.list_files(uri)}
    storage.write_bytes(f"{config.runs_uri}/run/{LOCK_FILE}", b'{"owner": "another"}')
    monkeypatch.setattr("tests.train.saved_runs.storage.write_bytes", lambda uri, data: None)
    with pytest.raises(LockLostError):
        save(tmp_path / "late", 10, config, world_size=3)
    assert {name: storage.sha256(f"{uri}/{name}") for name in storage.list_files(uri)} == before


def test_train_refuses_a_run_that_another_job_trains_before_anything_is_started(tmp_path, monkeypatch):
    """Also one that is at its end: its checkpoint may be the other's."""
    monkeypatch.setattr("sa2va_ray.train.trainer._train", lambda *arguments: pytest.fail("it was let in"))
    data = tmp_path / "data"
    data.mkdir()
    write_manifest(data, {"counts": {"train": {"samples": 9}, "val": {"samples": 0}}})
    config = run_config(tmp_path / "runs", f"data_uri={data}")
    with new_lock(f"{config.runs_uri}/run"), pytest.raises(UserError, match="Another job trains the run"):
        train(config)
    assert OWNER not in os.listdir(f"{config.runs_uri}/run")
