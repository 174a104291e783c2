"""The local stack, with real processes: the session's, and a second one that holds a store only."""

import json
import os
import shlex
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray.job_submission import JobSubmissionClient

from sa2va_ray.config import UserError
from sa2va_ray.demo.processes import Process
from sa2va_ray.demo.stack import SCRIPTS_DIR, Stack, _dashboard_port
from sa2va_ray.submission import JOB_CONFIG_VARIABLE

_SAYS_WHAT_IT_IS = f"import os; print({JOB_CONFIG_VARIABLE!r} in os.environ)"


def submit_job(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS_DIR / "ray"), "job", "submit", "--", "python", "-c", _SAYS_WHAT_IT_IS]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_job_runs_with_the_stacks_environment(stack: Stack) -> None:
    result = submit_job(dict(os.environ))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "\nTrue\n" in result.stdout, "it cannot know that it was submitted"


def test_job_is_refused_without_the_token(stack: Stack) -> None:
    without_token = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    result = submit_job(without_token | {"RAY_AUTH_MODE": "disabled"})
    assert result.returncode != 0
    assert "AuthenticationError" in result.stderr


_LEAVES_LATE = """import signal, sys, time
def leave(number, frame):
    time.sleep(4)
    print("left in order")
    sys.exit()
signal.signal(signal.SIGTERM, leave)
print("is there", flush=True)
time.sleep(60)"""


def test_a_job_that_is_stopped_has_time_to_end_in_order(stack: Stack) -> None:
    client = JobSubmissionClient(stack.dashboard_url)
    job = client.submit_job(entrypoint=shlex.join(["python", "-c", _LEAVES_LATE]))
    for _ in range(600):
        if "is there" in client.get_job_logs(job):
            break
        time.sleep(0.1)
    client.stop_job(job)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.1)
    assert "left in order" in client.get_job_logs(job)


def test_tasks_have_our_python_and_the_stores_environment(stack: Stack, ray_cluster: None) -> None:
    @ray.remote
    def look() -> tuple[str, str]:
        import os
        import sys

        return sys.prefix, os.environ["AWS_ENDPOINT_URL"]

    prefix, endpoint_url = ray.get(look.remote())
    assert Path(prefix) == SCRIPTS_DIR.parent
    assert endpoint_url == stack.env["AWS_ENDPOINT_URL"]


def test_stacks_that_start_together_have_dashboards_of_their_own() -> None:
    with _dashboard_port() as one, _dashboard_port() as other:
        assert one != other


def test_state_file_is_private(stack: Stack) -> None:
    assert stat.S_IMODE((stack.state_dir / "stack.json").stat().st_mode) == 0o600
    assert Stack.load(stack.state_dir) == stack


def test_second_stack_comes_and_goes(stack: Stack, tmp_path: Path) -> None:
    second = Stack(tmp_path / "second")
    second.start_store("other")
    assert second.env["AWS_ENDPOINT_URL"] != stack.env["AWS_ENDPOINT_URL"]
    with pytest.raises(UserError, match="running"):
        Stack(second.state_dir).start_store("other")

    runtime_dir, processes = Path(second.runtime_dir), second.processes
    Stack.load(second.state_dir).stop()
    assert [process.find() for process in processes] == [None] * len(processes)
    assert not runtime_dir.exists()
    assert all(process.find() for process in stack.processes if process.name in ("store", "ray"))
    second.stop()


@pytest.mark.parametrize("other", [{"started_s": 0.0}, {"boot_id": "of an earlier boot"}], ids=["start", "boot"])
def test_foreign_process_with_a_recorded_pid_lives_on(tmp_path: Path, other: dict) -> None:
    with subprocess.Popen(["sleep", "60"]) as foreign:
        recorded = Process.of("store", psutil.Process(foreign.pid))._replace(**other)
        state = {"env": {}, "processes": [recorded], "runtime_dir": ""}
        (tmp_path / "stack.json").write_text(json.dumps(state))
        Stack.load(tmp_path).stop()
        assert foreign.poll() is None
        foreign.kill()


def test_a_process_is_found_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        recorded = Process.of("store", psutil.Process(process.pid))
        boot_s = psutil.boot_time()
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_s + 3600)
        assert recorded.find()
        process.kill()


def test_stop_ends_descendants(tmp_path: Path) -> None:
    """Also one in a session of its own, as a job's driver is."""
    with subprocess.Popen(["sh", "-c", "setsid sleep 60 & wait"]) as parent:
        root = psutil.Process(parent.pid)
        while not any(child.name() == "sleep" for child in root.children(recursive=True)):
            time.sleep(0.05)
        children = root.children(recursive=True)
        Stack(tmp_path, processes=[Process.of("store", root)]).stop()
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_stop_on_nothing_is_fine(tmp_path: Path) -> None:
    Stack.load(tmp_path).stop()
