"""The console command."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from sa2va_ray.console.main import main
from sa2va_ray.console.verbs import VERBS


def invoke(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_the_list_of_commands_follows_the_work():
    told = invoke("--help").output
    places = [told.index(f"\n  {name} ") for name in (*VERBS, "env", "open", "tensorboard", "completion")]
    assert places == sorted(places)
    assert "..." not in told.partition("Commands:")[2], "a summary is cut off"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_helps(verb):
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"usage: sa2va-ray {verb} ")


def test_a_verb_takes_what_a_job_takes():
    result = invoke("train", "no_such.yaml", "optim.lr=1")
    assert (result.exit_code, "There is no config file no_such.yaml. " in result.stderr) == (2, True)


def test_a_config_file_that_is_looked_for_outside_the_repository_is_told_as_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = invoke("train", "jobs/configs/demo.yaml").stderr
    assert (
        "jobs/configs/demo.yaml below this folder, which has no jobs/configs/ either: go to the folder of the" in told
    )


def completions(line: str, shell: str = "bash") -> list[str]:
    words = line.split(" ")
    environment = {"_SA2VA_RAY_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    script = "from sa2va_ray.console.main import main; main(prog_name='sa2va-ray')"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    return [each.partition(",")[2] for each in done.stdout.splitlines()]


def test_a_shell_completes_verbs_and_keys():
    assert completions("sa2va-ray pre") == ["prepare", "preview", "predict"]
    assert completions("sa2va-ray train optim.w") == ["optim.weight_decay=", "optim.warmup_ratio="]
    assert completions("sa2va-ray env store_r") == ["store_region="]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_each_shell(shell):
    assert "_SA2VA_RAY_COMPLETE" in invoke("completion", shell).output
