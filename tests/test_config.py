"""Configs: files, overrides, and messages that name the wrong key and its cure."""

import pytest
from pydantic import Field

from sa2va_ray.config import Config, UserError, run_job


class Inner(Config):
    lr: float = Field(1e-3, gt=0)
    warmup: int = 0


class Outer(Config):
    name: str
    optim: Inner = Inner()


def test_later_arguments_win_and_yaml_floats_are_floats(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("name: a\noptim: {lr: 1e-4, warmup: 3}\n")
    config = Outer.load([str(file), "optim.lr=3e-4", "name=b"])
    assert config == Outer(name="b", optim=Inner(lr=3e-4, warmup=3))


def test_an_unknown_key_is_named_with_the_valid_ones():
    with pytest.raises(UserError, match=r"unknown key optim\.learning_rate; valid here: lr, warmup"):
        Outer.load(["name=a", "optim.learning_rate=1"])


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(UserError, match=r"(?s)2 wrong.*name is required.*optim\.lr.*greater than 0 \(got -1\)"):
        Outer.load(["optim.lr=-1"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no config file .*nothing\.yaml"):
        Outer.load([str(tmp_path / "nothing.yaml")])


def test_a_group_cannot_be_set_below_a_value():
    with pytest.raises(UserError, match="name is a single value"):
        Outer.load(["name=a", "name.b=1"])


def test_a_job_ends_with_one_message_and_status_2(capsys):
    with pytest.raises(SystemExit) as end:
        run_job(Outer, print, ["wrong=1"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: Outer has 2 wrong value(s):")


def test_a_bug_keeps_its_traceback():
    def broken(config: Outer) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_job(Outer, broken, ["name=a"])
