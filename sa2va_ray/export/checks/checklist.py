"""A check that passed or did not, and what is said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sa2va_ray.config import UserError


@dataclass(frozen=True)
class Check:
    """One thing that was checked; `detail` has the numbers, or what is wrong."""

    name: str
    passed: bool
    detail: str


def checks_table(checks: Sequence[Check]) -> str:
    """A line for each check: whether it passed, its name and the details."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{'ok  ' if c.passed else 'FAIL'}  {c.name.ljust(width)}  {c.detail}" for c in checks)


def changes_table(modules: Mapping[str, Mapping[str, float]]) -> str:
    """How many tensors of each module were trained, have changed, and by how much."""
    rows = [f"{'module'.ljust(20)} tensors trained changed  norm of change  norm of base"]
    for module, row in modules.items():
        counts = " ".join(f"{row[key]:7d}" for key in ("tensors", "trained", "changed"))
        rows.append(f"{module.ljust(20)} {counts}  {row['norm_of_change']:14.6g}  {row['norm_of_base']:12.6g}")
    return "\n".join(rows)


def raise_for_failed(checks: Sequence[Check], what: str) -> None:
    """Ends the job where a check has failed.

    Raises:
        UserError: all checks that failed, with their details.
    """
    failed = [check for check in checks if not check.passed]
    if failed:
        lines = "\n".join(f"  {check.name}: {check.detail}" for check in failed)
        raise UserError(f"{what}: {len(failed)} of {len(checks)} checks failed\n{lines}")
