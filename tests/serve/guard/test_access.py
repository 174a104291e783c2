import base64
import json
import subprocess
import sys
import time

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.serve.guard.access import KEYS_VARIABLE, LOOPBACK_ID, Access, new_key
from sa2va_ray.serve.problems import Problem

REMOTE = "203.0.113.5"


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def key_and_access():
    key, stored = new_key("clinic")
    other = new_key("ops")[1]
    return key, Access([other, stored])


def check(access, headers, host):
    key_id = access.identify(headers, host)
    access.admit(key_id)
    return key_id


def status_of(access, headers, host=REMOTE):
    with pytest.raises(Problem) as caught:
        check(access, headers, host)
    return caught.value.status


def test_each_way_to_send_a_key(key_and_access):
    key, access = key_and_access
    basic = base64.b64encode(f"anybody:{key}".encode()).decode()
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key} "},
        {"x-api-key": key},
        {"authorization": f"Basic {basic}"},
    ):
        assert check(access, headers, REMOTE) == "clinic"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": "Digest x"},
        {"authorization": "Basic !!"},
        {"authorization": "Basic schl\xfcssel"},
        {"authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
        {"x-api-key": ""},
        {"x-api-key": "schlüssel"},
    ],
)
def test_no_valid_key(key_and_access, headers):
    access = key_and_access[1]
    assert status_of(access, headers) == 401
    assert status_of(access, headers, host="127.0.0.1") == 401  # being local does not help once there are keys
    with pytest.raises(Problem) as caught:
        check(access, headers, REMOTE)
    assert caught.value.response().headers["www-authenticate"] == "Bearer"


def test_the_hash_is_not_a_key():
    key, stored = new_key("clinic")
    assert status_of(Access([stored]), {"x-api-key": stored.sha256}) == 401
    assert key not in stored.model_dump_json()


def test_rate_limit_lets_a_burst_pass_and_then_says_when():
    key, stored = new_key("slow", requests_per_minute=4)
    free, free_stored = new_key("free")
    clock = Clock()
    access = Access([stored, free_stored], clock)
    for _ in range(4):
        check(access, {"x-api-key": key}, REMOTE)
    with pytest.raises(Problem) as caught:
        check(access, {"x-api-key": key}, REMOTE)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 15)
    for _ in range(10):
        check(access, {"x-api-key": free}, REMOTE)  # another key is not held up
    clock.now_s += 14
    assert status_of(access, {"x-api-key": key}) == 429
    clock.now_s += 1
    check(access, {"x-api-key": key}, REMOTE)
    clock.now_s += 3600
    for _ in range(4):
        check(access, {"x-api-key": key}, REMOTE)
    assert status_of(access, {"x-api-key": key}) == 429  # an hour of rest is not saved up


def test_rate_limits_go_by_a_clock_that_does_not_jump(monkeypatch):
    key, stored = new_key("slow", requests_per_minute=1)
    access = Access([stored])
    check(access, {"x-api-key": key}, REMOTE)
    now_s = time.time()
    for jumped_s in (now_s + 86_400, 0.0):
        monkeypatch.setattr(time, "time", lambda jumped_s=jumped_s: jumped_s)
        assert status_of(access, {"x-api-key": key}) == 429


def test_no_keys_means_this_machine_only(monkeypatch):
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    access = Access.load(None)
    assert "this machine only" in access.describe()
    for host in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert check(access, {}, host) == LOOPBACK_ID
    for host in (REMOTE, "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "", "localhost", None):
        assert status_of(access, {}, host) == 403
    for name in ("x-forwarded-for", "forwarded", "x-real-ip"):
        assert status_of(access, {name: "127.0.0.1"}, "127.0.0.1") == 403


def test_keys_from_a_file_and_from_the_environment(tmp_path, monkeypatch):
    in_file, stored = new_key("file", 60)
    (tmp_path / "keys.json").write_text(json.dumps([stored.model_dump(mode="json")]))
    in_environment, other = new_key("environment")
    monkeypatch.setenv(KEYS_VARIABLE, json.dumps([other.model_dump(mode="json")]))
    access = Access.load(str(tmp_path / "keys.json"))
    assert check(access, {"x-api-key": in_file}, REMOTE) == "file"
    assert status_of(access, {"x-api-key": in_environment}) == 401
    assert check(Access.load(None), {"x-api-key": in_environment}, REMOTE) == "environment"
    assert "1 API key" in access.describe()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "Invalid JSON"),
        (b"{}", "list"),
        (b'[{"id": "a", "sha256": "the-key-itself", "scopes": ["predict"]}]', "sha256"),
        (b'[{"id": "a b", "sha256": "%s", "scopes": ["predict"]}]' % (64 * b"0"), "id"),
        (b'[{"id": "a", "sha256": "%s", "scopes": ["root"]}]' % (64 * b"0"), "scopes"),
        (b'[{"id": "a", "sha256": "%s", "scopes": []}]' % (64 * b"0"), "scopes"),
        (b"[%s, %s]" % (2 * (b'{"id": "a", "sha256": "%s", "scopes": ["predict"]}' % (64 * b"0"),)), "1 different ids"),
        (
            b"[%s]" % b", ".join(b'{"id": "%s", "sha256": "%s"}' % (id, 64 * b"0") for id in (b"a", b"b")),
            "1 different sha256s",
        ),
        (b'[{"id": "a", "sha256": "%s", "scopes": ["predict", "admin"]}]' % (64 * b"0"), "no scope 'admin' any more"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_a_wrong_file_says_where_and_no_value(tmp_path, content, says):
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        Access.load(str(tmp_path / "keys.json"))
    assert "the-key-itself" not in str(caught.value)


def test_a_missing_file_is_not_no_keys(tmp_path):
    with pytest.raises(UserError, match="no file of API keys"):
        Access.load(str(tmp_path / "keys.json"))


def test_behind_haproxy_keys_are_obligatory(tmp_path, monkeypatch):
    monkeypatch.setattr("sa2va_ray.serve.guard.access.RAY_SERVE_ENABLE_HA_PROXY", True)
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    file = tmp_path / "keys.json"
    file.write_text("[]")
    for path in (None, str(file)):
        with pytest.raises(UserError, match="without API keys anybody would be answered"):
            Access.load(path)
    key, stored = new_key("clinic")
    file.write_text(json.dumps([stored.model_dump(mode="json")]))
    assert Access.load(str(file)).identify({"x-api-key": key}, "127.0.0.1") == "clinic"
    monkeypatch.setenv(KEYS_VARIABLE, file.read_text())
    assert Access.load(None).identify({"x-api-key": key}, "127.0.0.1") == "clinic"


def test_what_the_generator_prints_works(tmp_path):
    command = [sys.executable, "-m", "sa2va_ray.serve.guard.access", "new", "clinic"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (tmp_path / "keys.json").write_text(lines[3])
    assert check(Access.load(str(tmp_path / "keys.json")), {"x-api-key": lines[1]}, REMOTE) == "clinic"
    bad = subprocess.run([*command[:4], "two words"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert "Traceback" not in bad.stderr
