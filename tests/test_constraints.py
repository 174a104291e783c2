"""constraints.txt against pyproject.toml: `make lock` renews it, nobody has to remember to."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


def test_no_line_names_an_index_or_an_address():
    assert [line for line in LINES if "://" in line or line.startswith("-")] == []


def test_what_is_pinned_by_hash_has_the_same_version():
    for line in (ROOT / "hashes.txt").read_text().splitlines():
        assert line.startswith("#") or line.split(" ")[0] in LINES
