"""constraints.txt against pyproject.toml: `make lock` renews it, nobody has to remember to."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def wanted() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    return [each for each in (*project["dependencies"], *extras) if Requirement(each).name != project["name"]]


@pytest.mark.parametrize("requirement", map(Requirement, wanted()), ids=str)
def test_each_dependency_has_a_version_that_pyproject_allows(requirement: Requirement):
    pins = [each for each in map(Requirement, LINES) if each.name == requirement.name.lower()]
    assert pins, "run `make lock`"
    for pin in pins:
        assert all(each.operator == "==" and each.version in requirement.specifier for each in pin.specifier)


def imported(file: Path) -> Iterator[str]:
    """Packages, as they are called in imports."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        yield from (name.partition(".")[0] for name in names)


def test_what_is_imported_is_declared():
    """And not only drawn in by another package, which may do without it one day."""
    declared, ours = {canonicalize_name(Requirement(each).name) for each in wanted()}, {"sa2va_ray", "jobs"}
    files = [file for folder in ours for file in (ROOT / folder).rglob("*.py")]
    found = {name for file in files for name in imported(file)} - ours - sys.stdlib_module_names
    distributions = packages_distributions()  # of an extra that is not installed nothing is known but the name
    called = {name: {canonicalize_name(each) for each in distributions.get(name, [name])} for name in found}
    assert [name for name, candidates in called.items() if not candidates & declared] == []


def test_no_line_names_an_index_or_an_address():
    assert [line for line in LINES if "://" in line or line.startswith("-")] == []


def test_what_is_pinned_by_hash_has_the_same_version():
    for line in (ROOT / "hashes.txt").read_text().splitlines():
        assert line.startswith("#") or line.split(" ")[0] in LINES
