import logging

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.identity.pseudonym_key import KEY_FILE_VARIABLE, KEY_VARIABLE, read_key
from sa2va_ray.telemetry import LOGGER


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


def test_a_file_and_the_environment_give_the_same_key(key_file, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret\n")  # as Kubernetes takes it from a file
    from_environment = read_key(None)
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(key_file))
    assert from_environment == read_key(None) == read_key(str(key_file)) == read_key(f"file://{key_file}")
    assert from_environment.is_kept
    assert "secret" not in repr(from_environment)


def test_without_a_key_a_random_one_is_used_and_that_is_said_with_the_cure(monkeypatch):
    said = []
    monkeypatch.setattr(LOGGER, "handle", lambda record: said.append(record))
    first, second = read_key(None), read_key(None)
    assert first.value != second.value
    assert not first.is_kept
    assert said[0].levelno == logging.WARNING
    assert "openssl rand -hex 32" in said[0].getMessage()
    assert "pseudonym_key_file=" in said[0].getMessage()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(UserError, match=f"mode {mode:04o}.*chmod 600"):
        read_key(str(key_file))


def test_a_key_that_is_missing_or_empty_is_no_random_one(key_file):
    key_file.write_text("\n")
    with pytest.raises(UserError, match="pseudonym_key_file is empty"):
        read_key(str(key_file))
    key_file.unlink()
    with pytest.raises(UserError, match=r"cannot be read on the machine that the job runs on .*openssl rand -hex 32"):
        read_key(str(key_file))
