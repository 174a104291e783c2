import json
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.serve.guard import audit, audit_log
from sa2va_ray.serve.guard.audit import read_heads, verify, verify_folder
from sa2va_ray.serve.guard.audit_log import AuditLog


def append(log, number=0):
    return log.append(
        key_id="clinic",
        request_id=f"r{number}",
        model_sha256="a" * 64,
        input_sha256="b" * 64,
        output_sha256="c" * 64,
        latency_ms=12.34567,
        status=200,
    )


@pytest.fixture
def path(tmp_path):
    """A log of 5 records."""
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(5):
        append(log, number)
    log.close()
    return tmp_path / "audit.jsonl"


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def kinds(path):
    return [fault.kind for fault in verify(path).faults]


def test_a_whole_log(path):
    report = verify(path)
    assert (report.num_records, report.faults) == (5, ())
    records = [json.loads(line) for line in lines_of(path)]
    assert [record["sequence"] for record in records] == list(range(5))
    assert records[-1]["sha256"] == report.last_sha256
    assert records[0]["previous_sha256"] == "0" * 64
    assert records[2]["previous_sha256"] == records[1]["sha256"]
    assert records[0]["time"].endswith("+00:00")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_goes_on_where_it_ended(path):
    log = AuditLog(path)
    assert append(log)["sequence"] == 5
    log.close()
    assert (verify(path).num_records, kinds(path)) == (6, [])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b'"status":200', b'"status":500'), *lines[3:]], ["changed"]),
        (lambda lines: [*lines[:2], lines[2].replace(b'"status"', b'"status":500,"status"'), *lines[3:]], ["changed"]),
        (lambda lines: [*lines[:2], lines[2].replace(b":", b": ", 1), *lines[3:]], ["changed"]),
        (lambda lines: lines[1:], ["removed"]),
        (lambda lines: [*lines[:2], *lines[4:]], ["removed"]),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], ["removed", "moved", "removed"]),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], ["moved"]),
        (lambda lines: [*lines[:2], lines[2][:40] + b"\n", *lines[3:]], ["torn", "removed"]),
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"sequence":2', b'"sequence":"2"'), *lines[3:]],
            ["torn", "removed"],
        ),
        (lambda lines: [*lines[:4], lines[4][:-1]], ["torn"]),
        (lambda lines: [*lines[:4], b"\0" * 100], ["torn"]),
        (lambda lines: [*lines, b"[" * 100_000 + b"\n"], ["torn"]),
        (lambda lines: [*lines, b'{"a":' * 100_000 + b"\n"], ["torn"]),
        (lambda lines: [*lines, lines[4].replace(b'"r4"', b"[" * 900 + b"]" * 900)], ["torn"]),
        (lambda lines: [*lines, lines[4].replace(b'"sequence":4', b'"sequence":' + b"5" * 5000)], ["torn"]),
        (lambda lines: [*lines, b"\xff\xfe\n"], ["torn"]),
    ],
)
def test_what_was_done_to_it_is_found(path, change, found):
    path.write_bytes(b"".join(change(lines_of(path))))
    assert kinds(path) == found


def test_a_record_replaced_with_a_right_hash_breaks_the_chain(path):
    lines = lines_of(path)
    record = json.loads(lines[2]) | {"status": 500}
    record["sha256"] = audit_log.hash_record(record)
    path.write_bytes(b"".join([*lines[:2], audit_log.to_line(record), *lines[3:]]))
    assert [(fault.line, fault.kind) for fault in verify(path).faults] == [(4, "broken")]


def test_lines_cut_off_at_the_end_change_number_and_hash(path):
    before = verify(path)
    path.write_bytes(b"".join(lines_of(path)[:3]))
    after = verify(path)
    assert after.faults == ()
    assert (after.num_records, after.last_sha256) != (before.num_records, before.last_sha256)


@pytest.mark.parametrize("rest", [b'{"sequence":5,"time', b"\0" * 200, b'{"sequence":5,"time\nmore garbage'])
def test_a_torn_end_is_reported_and_the_log_goes_on(path, rest):
    with path.open("ab") as file:
        file.write(rest)
    for expected in (5, 6):
        log = AuditLog(path)
        assert append(log)["sequence"] == expected
        log.close()
    report = verify(path)
    assert report.num_records == 7
    assert {fault.kind for fault in report.faults} == {"torn"}
    assert {fault.line for fault in report.faults} == set(range(6, 7 + rest.count(b"\n")))


def test_a_long_torn_end_does_not_hide_the_last_record(path):
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    log = AuditLog(path)
    assert append(log)["sequence"] == 5
    log.close()


def test_a_full_disk_is_told_and_the_next_record_is_whole(path):
    log = AuditLog(path)
    write = os.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:50]))  # what a full disk does to a write
        with pytest.raises(OSError, match="50 of"):
            append(log)
    assert append(log)["sequence"] == 5
    log.close()
    assert kinds(path) == ["torn"]


def test_threads_share_it(path):
    log = AuditLog(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append(log, number), range(200)))
    log.close()
    assert (verify(path).num_records, kinds(path)) == (205, [])


def test_a_second_writer_is_refused(path):
    log = AuditLog(path)
    with pytest.raises(UserError, match="another process"):
        AuditLog(path)
    log.close()
    AuditLog(path).close()


def test_a_killed_writer_leaves_a_log_that_goes_on(tmp_path):
    path = tmp_path / "audit.jsonl"
    script = (
        "import sys; from sa2va_ray.serve.guard.audit_log import AuditLog\n"
        "log = AuditLog(sys.argv[1])\n"
        "while True:\n"
        "    log.append(key_id=None, request_id='r', model_sha256=None, input_sha256=None, output_sha256=None,"
        " latency_ms=1, status=500)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, path])
    deadline_s = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < 10_000:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    log = AuditLog(path)
    append(log)
    log.close()
    report = verify(path)
    assert report.num_records > 10
    assert {fault.kind for fault in report.faults} <= {"torn"}


def test_command_line(path):
    command = [sys.executable, "-m", "sa2va_ray.serve.guard.audit", "verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"5 records, last sha256 {verify(path).last_sha256}" in done.stdout
    path.write_bytes(b"".join(lines_of(path)[1:]))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "line 1: removed" in done.stdout
    assert subprocess.run([*command[:4], "none"], capture_output=True).returncode == 2


def test_heads_kept_elsewhere_show_what_was_cut_removed_or_written_anew(tmp_path, capsys):
    for name in ("a", "b", "c", "d"):
        log = AuditLog(tmp_path / f"{name}.jsonl")
        for number in range(4):
            append(log, number)
        log.close()
    heads = read_heads(tmp_path)
    audit.main(["heads", str(tmp_path)])
    (tmp_path / "heads.json").write_text(capsys.readouterr().out)

    log = AuditLog(tmp_path / "a.jsonl")
    append(log)  # goes on after the heads were taken
    log.close()
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "c.jsonl").write_bytes(b"".join(lines_of(tmp_path / "c.jsonl")[:3]))
    (tmp_path / "d.jsonl").unlink()
    log = AuditLog(tmp_path / "d.jsonl")
    for number in range(6):
        append(log, number + 10)
    log.close()

    reports = verify_folder(tmp_path, heads)
    found = {name[0]: [fault.kind for fault in report.faults] for name, report in reports.items()}
    assert found == {"a": [], "b": ["removed"], "c": ["cut"], "d": ["replaced"]}
    assert all(not report.faults for report in verify_folder(tmp_path, {}).values())
    for arguments, code in ((["--heads", str(tmp_path / "heads.json")], 1), ([], 0)):
        with pytest.raises(SystemExit) as ended:
            audit.main(["verify", str(tmp_path), *arguments])
        assert ended.value.code == code
        assert ("b.jsonl" in capsys.readouterr().out) == bool(code)


def test_the_head_of_an_empty_log_is_kept_too(tmp_path):
    AuditLog(tmp_path / "a.jsonl").close()
    heads = read_heads(tmp_path)
    log = AuditLog(tmp_path / "a.jsonl")
    append(log)
    log.close()
    assert verify(tmp_path / "a.jsonl", heads["a.jsonl"]).faults == ()


@pytest.mark.parametrize("heads", ["", "[]", '{"a.jsonl": 1}', None])
def test_heads_that_are_none_are_said_so(tmp_path, heads, capsys):
    if heads is not None:
        (tmp_path / "heads.json").write_text(heads)
    with pytest.raises(SystemExit):
        audit.main(["verify", str(tmp_path), "--heads", str(tmp_path / "heads.json")])
    assert "no heads of audit logs" in capsys.readouterr().err


def test_a_limit_of_the_files_size_is_told_and_leaves_a_whole_chain(path):
    """RLIMIT_FSIZE, as of a service's unit or of a quota: the write fails, or is cut short. In its own process."""
    script = (
        "import resource, sys; from sa2va_ray.serve.guard.audit_log import AuditLog\n"
        "log = AuditLog(sys.argv[1])\n"
        "def append():\n"
        "    log.append(key_id=None, request_id='r', model_sha256=None, input_sha256=None, output_sha256=None,"
        " latency_ms=1, status=500)\n"
        "def limit(size):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "limit(int(sys.argv[2]))\n"
        "failures = 0\n"
        "for _ in range(3):\n"
        "    try:\n"
        "        append()\n"
        "    except OSError:\n"
        "        failures += 1\n"
        "limit(resource.RLIM_INFINITY)\n"
        "append()\n"
        "print(failures)\n"
    )
    size = path.stat().st_size
    for room in (0, 100):  # nothing of the record, or a part of it
        command = [sys.executable, "-c", script, path, str(path.stat().st_size + room)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "3\n"
    assert path.stat().st_size > size
    report = verify(path)
    assert (report.num_records, [fault.kind for fault in report.faults]) == (7, ["torn"])


def test_the_hosts_clock_may_jump(path, monkeypatch):
    """The order is that of the sequence numbers; times are what the clock said."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(1970, 1, 1, tzinfo=tz)

    monkeypatch.setattr(audit_log, "datetime", Clock)
    log = AuditLog(path)
    assert append(log)["time"].startswith("1970")
    log.close()
    assert (verify(path).num_records, kinds(path)) == (6, [])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        AuditLog(tmp_path / "none" / "audit.jsonl")
