"""The prose names files that are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tests/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = ("sa2va_ray", "jobs", "serve_configs", "tests", "benchmarks", "docs")
OURS = [*ROOT.glob("*"), *(path for top in FOLDERS for path in ROOT.glob(f"{top}/**/*"))]
NOT_OURS = {"config.yaml", "my.yaml"}
"""Files of checkpoints and of users that the docs name."""

_BLOCK = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
_FILE = re.compile(r"`([\w/.*-]+\.(?:py|yaml|conf))`")


def links(page: Path) -> Iterator[str]:
    return iter(_LINK.findall(_BLOCK.sub("", page.read_text())))


def files(page: Path) -> set[str]:
    if page.name == "model_spec.md":  # it names upstream's
        return set()
    return set(_FILE.findall(_BLOCK.sub("", page.read_text()))) - NOT_OURS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    assert [link for link in links(page) if not (page.parent / link).exists()] == []
    assert [name for name in files(page) if "NAME" not in name and not any(path.match(name) for path in OURS)] == []
