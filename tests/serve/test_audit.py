import json
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.serve import audit
from sa2va_ray.serve.audit import AuditLog, verify


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
    return [finding.kind for finding in verify(path).findings]


def test_a_whole_log(path):
    report = verify(path)
    assert (report.num_records, report.findings) == (5, ())
    records = [json.loads(line) for line in lines_of(path)]
    assert [record["sequence"] for record in records] == list(range(5))
    assert records[-1]["sha256"] == report.last_sha256
    assert records[0]["previous_sha256"] == "0" * 64
    assert records[2]["previous_sha256"] == records[1]["sha256"]
    assert records[0]["time"].endswith("+00:00")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_goes_on_where_it_ended(path):
    log = AuditLog(path, fsync=True)
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
    ],
)
def test_what_was_done_to_it_is_found(path, change, found):
    path.write_bytes(b"".join(change(lines_of(path))))
    assert kinds(path) == found


def test_a_record_replaced_with_a_right_hash_breaks_the_chain(path):
    lines = lines_of(path)
    record = json.loads(lines[2]) | {"status": 500}
    record["sha256"] = audit._hash(record)
    path.write_bytes(b"".join([*lines[:2], audit._to_line(record), *lines[3:]]))
    assert [(finding.line, finding.kind) for finding in verify(path).findings] == [(4, "broken")]


def test_lines_cut_off_at_the_end_change_number_and_hash(path):
    before = verify(path)
    path.write_bytes(b"".join(lines_of(path)[:3]))
    after = verify(path)
    assert after.findings == ()
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
    assert {finding.kind for finding in report.findings} == {"torn"}
    assert {finding.line for finding in report.findings} == set(range(6, 7 + rest.count(b"\n")))


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
        "import sys; from sa2va_ray.serve.audit import AuditLog\n"
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
    assert {finding.kind for finding in report.findings} <= {"torn"}


def test_command_line(path):
    command = [sys.executable, "-m", "sa2va_ray.serve.audit", "verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"5 records, last sha256 {verify(path).last_sha256}" in done.stdout
    path.write_bytes(b"".join(lines_of(path)[1:]))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "line 1: removed" in done.stdout
    assert subprocess.run([*command[:4], "none"], capture_output=True).returncode == 2


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        AuditLog(tmp_path / "none" / "audit.jsonl")
