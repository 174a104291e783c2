"""The arguments of the benchmark of strategies."""

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks import strategies


def test_a_profile_of_all_settings_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["strategies", "--profile", str(tmp_path / "kernels.txt")])
    monkeypatch.setattr(strategies, "SETTINGS", [])
    with pytest.raises(SystemExit):
        strategies.main()
    assert "--profile is of one setting" in capsys.readouterr().err


def test_each_setting_is_measured_with_the_size_that_was_asked_for(monkeypatch):
    commands = []

    def run(command: list[str], **options: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout=json.dumps({}))

    monkeypatch.setattr(strategies.subprocess, "run", run)
    strategies._in_a_process(["strategy=zero2"], "tiny")
    assert commands[0][2:] == ["benchmarks.strategies", "--size", "tiny", "strategy=zero2"]
