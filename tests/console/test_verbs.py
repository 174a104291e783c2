"""The verbs: their names lead somewhere, and a mistake is told at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sa2va_ray.config import Config, UserError
from sa2va_ray.config_keys import group_of, list_fields
from sa2va_ray.console import verbs
from sa2va_ray.console.verbs import INTERRUPTED, VERBS, Verb, run_verb
from sa2va_ray.telemetry import LOGGER

ROOT = Path(__file__).parents[2]


class Settings(Config):
    name: str


def refuse(config: Settings) -> None:
    raise UserError("no")


def interrupt(config: Settings) -> None:
    raise KeyboardInterrupt


def be_stopped(config: Settings) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def break_down(config: Settings) -> None:
    raise ZeroDivisionError


@pytest.fixture
def settings_verb(monkeypatch):
    """Makes a verb `try` that runs one of the functions of this file."""

    def make(function):
        monkeypatch.setattr(Verb, "config_class", property(lambda self: Settings))
        monkeypatch.setattr(Verb, "run", lambda self, config: function(config))
        monkeypatch.setitem(verbs.VERBS, "try", Verb("Tries.", "a:b", "a:b", ()))

    return make


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_verb_has_a_config_and_a_function(verb):
    assert issubclass(verb.config_class, Config)
    verb.function  # noqa: B018


def test_every_verb_is_a_job():
    assert {file.stem for file in (ROOT / "jobs").glob("[!_]*.py")} == VERBS.keys()


def test_help_tells_the_keys_and_starts_nothing(capsys):
    for flag in ("-h", "--help"):
        run_verb("train", [flag, "wrong=1"])
        told = capsys.readouterr().out
        assert told.startswith("usage: sa2va-ray train [CONFIG.yaml ...]")
        assert "\n    sa2va-ray train jobs/configs/demo.yaml optim.lr=3e-4\n" in told
        assert "\n  data_uri (required)\n      Prepared data set.\n" in told
        assert "\n  optim.lr = 2e-05\n      Peak learning rate.\n" in told
        assert '\n  strategy = "zero3"   one of auto, zero2, zero3, zero3_offload\n' in told
        assert "\n  model.base.sam2_checkpoint = null\n" in told


def test_wrong_keys_end_in_one_message_and_status_2(settings_verb, capsys):
    settings_verb(refuse)
    with pytest.raises(SystemExit) as end:
        run_verb("try", ["wrong=1"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: Settings has 2 wrong value(s):")


def test_a_verb_without_anything_is_told_what_it_takes(capsys):
    with pytest.raises(SystemExit):
        run_verb("deploy", [])
    told = capsys.readouterr().err
    assert told.endswith(
        "Nothing was given. For example:\n  sa2va-ray deploy serve_configs/one_gpu.yaml\n  sa2va-ray deploy --help\n"
    )


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_key_of_a_verb_has_its_meaning(verb):
    fields = list_fields(verb.config_class)
    assert [key for key, field in fields if not field.description and group_of(field) is None] == []


def test_a_user_error_is_one_message(settings_verb, capsys):
    settings_verb(refuse)
    with pytest.raises(SystemExit) as end:
        run_verb("try", ["name=a"])
    assert (end.value.code, capsys.readouterr().err) == (2, "error: no\n")


def test_a_bug_keeps_its_traceback(settings_verb):
    settings_verb(break_down)
    with pytest.raises(ZeroDivisionError):
        run_verb("try", ["name=a"])


def test_who_interrupts_is_told_what_the_same_command_does(settings_verb, capsys):
    settings_verb(interrupt)
    with pytest.raises(SystemExit) as end:
        run_verb("try", ["name=a"])
    assert end.value.code == INTERRUPTED
    assert capsys.readouterr().err == f"stopped: try was interrupted. {VERBS['prepare'].again}\n"


def test_a_verb_speaks_before_it_loads_what_takes_long(monkeypatch):
    told = []
    monkeypatch.setattr(LOGGER, "info", told.append)
    monkeypatch.setattr(Verb, "function", property(lambda self: lambda config: told.append("loaded")))
    Verb("Tries.", "a:b", "a:b", ()).run(Settings(name="a"))
    assert told == ["the settings are read; loading what works on them", "loaded"]


HEAVY = ("torch", "ray", "transformers", "deepspeed", "peft")


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_key_is_told_before_anything_heavy_is_loaded(verb):
    assert "unknown key no_such_key" in refused_lightly(verb, "no_such_key=1")


def test_an_export_of_nothing_is_told_before_anything_heavy_is_loaded():
    assert "There is nothing at /nowhere/model." in refused_lightly("export", "verify=/nowhere/model")


def refused_lightly(verb: str, argument: str) -> str:
    """What a verb says of an argument that it refuses without having loaded anything of `HEAVY`."""
    script = (
        "import sys\nfrom sa2va_ray.console.verbs import run_verb\n"
        f"try:\n    run_verb({verb!r}, [{argument!r}])\n"
        f"finally:\n    print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    return done.stderr


def test_a_job_that_is_stopped_leaves_what_it_is_in(settings_verb):
    """As an export its folder and the process that checks it: it connects to no cluster, which would see to that."""
    settings_verb(be_stopped)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as raised:
            run_verb("try", ["name=a"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised.value.code == 128 + signal.SIGTERM
