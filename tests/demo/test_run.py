"""A demo that fails in the middle says why, and how one looks into what runs."""

import sys

import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.demo import run as run_module
from sa2va_ray.demo.stack import Stack


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder of programs that stands for that of the virtual environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


def write_program(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.cluster
def test_what_a_user_has_in_the_store_stays(tmp_path, monkeypatch):
    """A store with a folder of the user's beside the demo's, stopped; then the demo anew, up to its first job."""
    state = tmp_path / "state"
    with Stack(state) as before:
        before.start_store("sa2va")
        with before.applied_env():
            for folder in ("mine/model", "demo/model"):
                storage.write_bytes(f"s3://sa2va/{folder}/config.json", b"{}")
    (state / "synthetic").mkdir()
    monkeypatch.setattr(Stack, "start_ray", lambda self, num_cpus: None)
    monkeypatch.setattr(run_module, "write_connection", lambda state_dir, env: None)
    monkeypatch.setattr(run_module, "_run_job", lambda demo, *_, **__: kept.update(files_of(demo.stack)))
    kept: dict[str, int] = {}
    (tmp_path / "data").mkdir()
    try:
        run_module.run(state, tmp_path / "output", tmp_path / "data", [])
    finally:
        Stack.load(state).stop()
    assert kept.keys() == {"mine/model/config.json"}
    assert not (state / "synthetic").exists()


def files_of(stack):
    with stack.applied_env():
        return storage.list_files("s3://sa2va")


def test_a_deployment_that_fails_ends_with_its_reason_and_what_to_do(programs, tmp_path, monkeypatch, capsys):
    def start_services(demo):
        demo.stack.env["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:1"

    monkeypatch.setattr(run_module._Demo, "start_services", start_services)
    write_program(programs, "ray", "exit 0")
    write_program(programs, "sa2va-ray", "echo 'error: sa2va does not run: the disk is full.' >&2; exit 2")
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError) as failure:
        run_module.run(tmp_path / "state", tmp_path / "output", tmp_path / "data", [])
    told = str(failure.value)
    reason, end = told.index("sa2va does not run: the disk is full."), told.index("dashboard    http://127.0.0.1:1 ")
    assert reason < end
    for help_ in ('sa2va-ray env)"', "make demo", "make stop"):
        assert help_ in told[end:]
    assert "> sa2va-ray deploy " in capsys.readouterr().out.splitlines()[-1]


def test_the_bar_of_a_training_stands_while_it_validates(capsys):
    with run_module._bar("train") as advance:
        advance("progress train 60/60")
        advance("progress validate 6/12")
    assert "60/60" in capsys.readouterr().out.splitlines()[-1]
