"""`sa2va-ray env`: a shell that evaluates its lines reaches cluster and store, and no secret is shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.console.connection import print_connection
from sa2va_ray.demo.connection_file import write_connection

ROOT = Path(__file__).parents[2]


def test_a_shell_reaches_the_cluster_and_the_store(stack, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".demo").mkdir()
    write_connection(tmp_path / ".demo", stack.env)
    print_connection([])
    lines, told = capfd.readouterr()
    for secret in ("RAY_AUTH_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert stack.env[secret] not in lines + told
    assert told.splitlines()[0].endswith(f" answers at {stack.dashboard_url}.")
    assert told.splitlines()[1] == f"The store answers at {stack.env['AWS_ENDPOINT_URL']}."
    (tmp_path / "lines").write_text(lines)
    use = (
        'eval "$(cat lines)" && ray job list && '
        f"{sys.executable} -c \"from sa2va_ray import storage; storage.check_writable('s3://tests/connection')\""
    )
    bare = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AWS_SECRET_ACCESS_KEY": "of another",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(["bash", "-c", use], env=bare, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_address_is_enough_and_a_blank_in_a_path_is_kept(tmp_path, capsys):
    token = tmp_path / "a token"
    token.write_text("x")
    token.chmod(0o644)
    print_connection([f"token_file={token}", "dashboard=http://127.0.0.1:9"])
    lines, told = capsys.readouterr()
    assert f"export RAY_AUTH_TOKEN_PATH='{token}'  # " in lines
    assert "AWS_" not in lines
    assert f"others on this machine can read {token}: chmod 600 it" in told
    assert "Ray at http://127.0.0.1:9 does not answer" in told


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "no demo runs in this folder"),
        (["dashboard=127.0.0.1:8265"], "dashboard: "),
        (["address=http://127.0.0.1:8265"], "address: "),
        (["token_file=/nowhere/token"], "there is no file /nowhere/token"),
        (["token_file=~no.such.user/token"], "no home of a user 'no.such.user'"),
        (["dashboard=http://h:port"], "dashboard: is no URL of a host and a port"),
        (["store_endpoint=http://[::1"], "store_endpoint: is no URL of a host and a port"),
        (["token=abc"], "unknown key token; valid here: address, dashboard"),
        (["dashboard=http://h:1/$(touch x)"], "dashboard: "),
    ],
)
def test_what_cannot_be_is_refused(settings, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="(?s).*".join(words.split("...")).replace("(", r"\(")):
        print_connection(settings)
    assert capsys.readouterr().out == ""


def test_a_value_is_no_shell_code(capsys):
    print_connection(["store_region=$(touch x); y"])
    assert "export AWS_DEFAULT_REGION='$(touch x); y'  # " in capsys.readouterr().out


def test_what_listens_and_is_something_else_is_said_so(stack, tmp_path, capsys):
    print_connection([f"dashboard=http://{stack.ray_address}", f"store_endpoint=http://{stack.ray_address}"])
    print_connection([f"store_endpoint={stack.dashboard_url}"])
    told = capsys.readouterr().err
    assert f"What listens at http://{stack.ray_address} is not Ray's dashboard" in told
    assert f"What listens at http://{stack.ray_address} does not answer as an S3 store does" in told
    assert f"What listens at {stack.dashboard_url} does not answer as an S3 store does" in told


@pytest.mark.parametrize("content", [b"\xff\xfe", b"two\nlines", b"\n"])
def test_a_file_that_holds_no_token_is_said_so(content, tmp_path, capsys):
    (tmp_path / "token").write_bytes(content)
    print_connection([f"token_file={tmp_path}/token", "dashboard=http://127.0.0.1:9"])
    assert f"{tmp_path}/token holds no token, which is one word" in capsys.readouterr().err
