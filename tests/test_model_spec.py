"""Comments and documents cite the numeric specification by section; each section that they name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = (ROOT / "docs/en/model_spec.md").read_text()
SECTIONS = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", SPEC, re.MULTILINE))
TRAPS = set(re.findall(r"^(\d+)\. ", SPEC[SPEC.index("\n## 7. ") : SPEC.index("\n## 8. ")], re.MULTILINE))
CITATION = re.compile(r"model_spec\.md,? sections? (\d[\d.]*(?:(?:, | and | to )\d[\d.]*)*)(?:, trap (\d+))?")


def unwrapped(text: str) -> str:
    """One line, without the marks of comments."""
    return re.sub(r"\s+(?:#\s+)?", " ", text)


def citing_files() -> list[Path]:
    folders = [ROOT / name for name in ("sa2va_ray", "jobs", "tests", "benchmarks", "docs")]
    files = [file for folder in folders for suffix in ("py", "md") for file in folder.rglob(f"*.{suffix}")]
    return [file for file in files if file != Path(__file__) and CITATION.search(unwrapped(file.read_text()))]


@pytest.mark.parametrize("file", citing_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_cited_section_is_there(file: Path):
    for sections, trap in CITATION.findall(unwrapped(file.read_text())):
        assert set(re.findall(r"\d+(?:\.\d+)?", sections)) <= SECTIONS
        assert not trap or trap in TRAPS


def test_no_citation_is_overlooked():
    """The pattern finds what the code cites today, and the specification is read as it is laid out."""
    assert len(citing_files()) >= 12
    assert {"1.1", "2.3", "5.2", "7"} <= SECTIONS
    assert {str(number) for number in range(1, 30)} == TRAPS
