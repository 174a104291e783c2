"""Mistakes that end in one clear message and exit status 2 before anything heavy starts: no test here starts Ray."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sa2va_ray.cluster.resources import connect
from sa2va_ray.config import UserError
from sa2va_ray.console.verbs import run_verb
from sa2va_ray.submission import JOB_CONFIG_VARIABLE

ROOT = Path(__file__).parent.parent
DEMO = str(ROOT / "jobs/configs/demo.yaml")


def fail(verb: str, arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """The message with which a job refuses its arguments."""
    with pytest.raises(SystemExit) as end:
        run_verb(verb, arguments)
    assert end.value.code == 2
    message = capsys.readouterr().err
    return message[message.index("error: ") :]


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("train", [DEMO, "optim.learning_rate=1"], ["optim.learning_rate", "valid here", "lr"]),
        ("train", [DEMO, "data_uri=/nowhere/data"], ["/nowhere/data", "prepared data set", "manifest.json"]),
        ("train", ["no_such.yaml"], ["no_such.yaml", "jobs/configs"]),
        ("prepare", ["source=/nowhere/images", "out=/tmp/unused"], ["`source` is not a folder"]),
        ("export", ["checkpoint=/nowhere/run", "out=/tmp/unused"], ["/nowhere/run", "checkpoint", "jobs.train"]),
        ("evaluate", ["model=/nowhere/model", "data_uri=/nowhere/data", "out=/tmp/unused"], ["prepared data set"]),
    ],
)
def test_one_message_and_status_2(verb, arguments, words, capsys):
    message = fail(verb, arguments, capsys)
    for word in words:
        assert word in message


def test_a_store_that_does_not_answer_is_named(monkeypatch, capsys):
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    start_s = time.monotonic()
    message = fail("train", [DEMO], capsys)
    assert "http://127.0.0.1:9" in message
    assert "credentials" in message
    assert time.monotonic() - start_s < 30


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "no.such.host.invalid:6379"])
def test_a_cluster_that_is_gone_is_told_at_once(address, monkeypatch):
    """Ray waits for two minutes, and writes lines of its own meanwhile."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    start_s = time.monotonic()
    with pytest.raises(UserError, match=f"No Ray cluster answers at RAY_ADDRESS={address}: .*unset RAY_ADDRESS"):
        connect()
    assert time.monotonic() - start_s < 30


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_cluster_that_ray_noted_and_that_is_gone_is_told_at_once(address, monkeypatch, tmp_path):
    """`ray start` writes its address to a file, which stays where the head is killed. Ray waits there for minutes."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("sa2va_ray.cluster.addresses.find_gcs_addresses", lambda: set())
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", address) if address else monkeypatch.delenv("RAY_ADDRESS", raising=False)
    file = tmp_path / "ray/ray_current_cluster"
    file.parent.mkdir()
    file.write_text("127.0.0.1:1")
    start_s = time.monotonic()
    with pytest.raises(UserError, match=rf"answers at 127\.0\.0\.1:1: .*noted this address in {file}.*rm {file}, and"):
        connect()
    assert time.monotonic() - start_s < 30


def test_a_submitted_job_that_ray_sends_to_a_cluster_that_is_gone_is_told_why(monkeypatch):
    """Ray takes the address from a file in its temporary folder, which another account may have written."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv(JOB_CONFIG_VARIABLE, "{}")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: .*start the head with RAY_TMPDIR"):
        connect()


def test_a_submitted_job_refuses_a_relative_output(monkeypatch, capsys):
    monkeypatch.setenv(JOB_CONFIG_VARIABLE, "{}")
    assert "out: is relative" in fail("prepare", ["source=.demo/synthetic", "out=prepared"], capsys)


def test_a_checkpoint_without_manifest_is_refused(tmp_path, capsys):
    (tmp_path / "train_state.json").write_text("{}")
    assert "manifest.json" in fail("export", [f"checkpoint={tmp_path}", "out=/tmp/unused"], capsys)


def test_from_the_command_line():
    command = [sys.executable, "-m", "jobs.train", DEMO, "optim.learning_rate=1"]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}  # leads nowhere: no cluster may be needed
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "error: TrainConfig has 1 wrong value(s)" in done.stderr
    assert "Traceback" not in done.stderr
