"""The audit log: who asked what of which model and when, as hashes. No pixels, no names.

It is a file of JSON lines, each with the SHA-256 of the one before, so that nobody can change, remove or move a line
without it being seen:

    python -m sa2va_ray.serve.guard.audit verify FILE_OR_FOLDER [--heads HEADS]

What is cut off at the end leaves a shorter chain that is whole, and a file that is removed leaves nothing. To find
that, keep the heads of all files, number of records and last hash, where the writer of the logs cannot write:

    python -m sa2va_ray.serve.guard.audit heads FOLDER > HEADS

Whoever can write the file can also make a whole new chain, which is found in the same way only.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sa2va_ray.config import UserError
from sa2va_ray.serve.guard.audit_log import FIRST_SHA256, hash_record, parse_record, to_line


@dataclass(frozen=True)
class AuditFault:
    """Something wrong with a log.

    Attributes:
        line: counted from 1; 0 is the file as a whole.
        kind: torn, changed, removed, moved, broken (the chain, by a line before that was replaced), or, against a head,
            cut (its last record is not there any more) or replaced (another one is).
    """

    line: int
    kind: str
    detail: str


@dataclass(frozen=True)
class Head:
    """How far a log was written: what is kept elsewhere."""

    num_records: int
    last_sha256: str


@dataclass(frozen=True)
class AuditReport:
    """What `verify` found.

    Attributes:
        num_records: lines that are records.
        last_sha256: of the last record; 64 zeros where there is none.
    """

    num_records: int
    last_sha256: str
    faults: tuple[AuditFault, ...]

    def __str__(self) -> str:
        lines = [f"line {fault.line}: {fault.kind}: {fault.detail}" for fault in self.faults]
        verdict = f"{len(lines)} thing(s) are wrong with this log." if lines else "The chain is whole."
        return "\n".join([*lines, f"{self.num_records} records, last sha256 {self.last_sha256}. {verdict}"])


def verify(path: str | Path, head: Head | None = None) -> AuditReport:
    """Follows the chain from the first line to the last.

    Args:
        head: how far it was once written.

    Raises:
        UserError: no such file.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no audit log at {path}.")
    faults: list[AuditFault] = []
    num_records, expected, previous, hashes = 0, 0, FIRST_SHA256, {-1: FIRST_SHA256}
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            record = parse_record(line)
            if record is None:
                faults.append(AuditFault(number, "torn", "no whole record, as a crash leaves it, or somebody's editor"))
                continue
            faults += [AuditFault(number, *wrong) for wrong in _wrongs(record, line, expected, previous)]
            num_records, expected, previous = num_records + 1, record["sequence"] + 1, record["sha256"]
            if head and record["sequence"] == head.num_records - 1:
                hashes[record["sequence"]] = previous
    if head:
        faults += _against_head(head, hashes.get(head.num_records - 1), num_records)
    return AuditReport(num_records, previous, tuple(faults))


def verify_folder(folder: str | Path, heads: Mapping[str, Head]) -> dict[str, AuditReport]:
    """Verifies each file in a folder. The reports are by the names of the files, with those of files that are among the
    heads and not there.

    Raises:
        UserError: no such folder.
    """
    found = {path.name: verify(path, heads.get(path.name)) for path in _files(folder)}
    gone = {name: head for name, head in heads.items() if name not in found}
    return found | {
        name: AuditReport(
            0, FIRST_SHA256, (AuditFault(0, "removed", f"the file of {head.num_records} records is not there"),)
        )
        for name, head in sorted(gone.items())
    }


def read_heads(folder: str | Path) -> dict[str, Head]:
    """The heads of the files in a folder as they are now, by the names of the files.

    Raises:
        UserError: no such folder, or something is wrong with one of the files.
    """
    reports = verify_folder(folder, {})
    wrong = [name for name, report in reports.items() if report.faults]
    if wrong:
        raise UserError(f"{len(wrong)} of {len(reports)} audit logs are not whole: verify {folder} first.")
    return {name: Head(report.num_records, report.last_sha256) for name, report in reports.items()}


def _files(folder: str | Path) -> list[Path]:
    if not Path(folder).is_dir():
        raise UserError(f"There is no folder of audit logs at {folder}.")
    return sorted(Path(folder).glob("*.jsonl"))


def _against_head(head: Head, found: str | None, num_records: int) -> list[AuditFault]:
    if found is None:
        return [AuditFault(0, "cut", f"it had {head.num_records} records and has {num_records}")]
    if found != head.last_sha256:
        return [AuditFault(0, "replaced", f"record {head.num_records - 1} has another hash than it had")]
    return []


def _wrongs(record: dict[str, Any], line: bytes, expected: int, previous: str) -> list[tuple[str, str]]:
    """(kind, detail) of what is wrong with a record, given what the line before lets expect."""
    wrongs = []
    sequence = record["sequence"]
    if record["sha256"] != hash_record(record) or line != to_line(record):
        wrongs.append(("changed", f"record {sequence} does not have the hash of what it holds"))
    if sequence > expected:
        wrongs.append(("removed", f"record {sequence} follows where {expected} should: {sequence - expected} missing"))
    elif sequence < expected:
        wrongs.append(("moved", f"record {sequence} follows where {expected} should: out of order or repeated"))
    elif record["previous_sha256"] != previous:
        wrongs.append(("broken", f"record {sequence} was not written after the one before: that one was replaced"))
    return wrongs


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sa2va_ray.serve.guard.audit", description="The audit log.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", help="find what was changed or removed")
    command.add_argument("path", help="a log, or a folder of them")
    command.add_argument("--heads", type=Path, help="what `heads` printed earlier")
    command = commands.add_parser("heads", help="print how far each log in a folder is written, to be kept elsewhere")
    command.add_argument("path", help="the folder")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "heads":
            print(TypeAdapter(dict[str, Head]).dump_json(read_heads(chosen.path), indent=1).decode())
            return
        reports = _verify(Path(chosen.path), _load_heads(chosen.heads))
    except UserError as error:
        parser.error(str(error))
    for name, report in reports.items():
        print(f"{name}:\n{report}")
    if not chosen.heads:
        print("What was cut off at the end, or removed as a whole file, is seen with --heads only.")
    raise SystemExit(1 if any(report.faults for report in reports.values()) else 0)


def _verify(path: Path, heads: Mapping[str, Head]) -> dict[str, AuditReport]:
    return verify_folder(path, heads) if path.is_dir() else {path.name: verify(path, heads.get(path.name))}


def _load_heads(path: Path | None) -> dict[str, Head]:
    if path is None:
        return {}
    try:
        return TypeAdapter(dict[str, Head]).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"There are no heads of audit logs, as `heads` prints them, in {path}.") from None


if __name__ == "__main__":
    main()
