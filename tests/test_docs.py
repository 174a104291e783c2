"""The prose names files that are there."""

import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sa2va_ray.config import Config
from sa2va_ray.config_keys import list_keys
from sa2va_ray.console.main import main
from sa2va_ray.console.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("README*.md"),
    ROOT / "CONTRIBUTING.md",
    ROOT / "tests/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = ("sa2va_ray", "jobs", "serve_configs", "tests", "benchmarks", "docs")
OURS = [*ROOT.glob("*"), *(path for top in FOLDERS for path in ROOT.glob(f"{top}/**/*"))]
NOT_OURS = {"config.yaml", "my.yaml", "my_cluster.yaml", "my_endpoint.yaml", "my_raycluster.yaml"}
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


PICTURES = ROOT / "docs/en/pictures"
_IMAGE = re.compile(r"<img src=\"([^\"]+)\" alt=\"[^\"]+\">|!\[[^]]+\]\(([^)]+)\)")


def images(page: Path) -> list[Path]:
    return [(page.parent / (markdown or tag)).resolve() for tag, markdown in _IMAGE.findall(page.read_text())]


def test_each_picture_is_shown_in_both_languages_and_small():
    """`make pictures` makes them."""
    by_language = [
        [file for page in (ROOT / "docs" / each).glob("*.md") for file in images(page)] for each in ("en", "zh")
    ]
    there = set(PICTURES.glob("*.png"))
    assert set(by_language[0]) == set(by_language[1]) == there
    assert len(there) > 3
    sizes = [file.stat().st_size for file in there]
    assert max(sizes) < 150_000
    assert sum(sizes) < 600_000


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_chain_of_imports_is_the_one_that_is_held(language):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (held,) = [each["layers"] for each in contracts if each["type"] == "layers" and each["layers"][0] == "console"]
    text = (ROOT / f"docs/{language}/architecture.md").read_text()
    (chain,) = re.findall(r"(?:`[\w |]+` >\s)+`[\w |]+`", text)
    assert re.findall(r"`(.*?)`", chain) == ["jobs", *held]


def test_who_contributes_is_told_all_verbs_in_their_order():
    page = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    assert f"in the order of the work: {', '.join(VERBS)}." in page
    assert VERBS.keys() == {file.stem for file in (ROOT / "jobs").glob("[!_]*.py")}


_COMMAND = re.compile(r"(?:sa2va-ray |python -m jobs\.)(?P<verb>\w+)(?P<arguments>(?:'[^'\n]*'|[^\n`#|>;)'])*)")
_KEY = re.compile(r"(?P<key>[a-z_][\w.]*)=")


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The verb and arguments of each command that a page tells a user to type."""
    text = page.read_text().replace("\\\n", " ")
    for match in _COMMAND.finditer(text):
        if match["verb"] in VERBS:
            yield match["verb"], shlex.split(match["arguments"].replace("=...", "=VALUE"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_keys_and_files_of_each_command_are_there(page):
    for verb, arguments in commands(page):
        config_class: type[Config] = VERBS[verb].config_class
        keys = set(list_keys(config_class))
        for argument in arguments:
            if match := _KEY.match(argument):
                assert any(key == match["key"] or match["key"].startswith(f"{key}.") for key in keys), (verb, argument)
            elif argument.startswith("jobs/configs/") and "NAME" not in argument:
                assert (ROOT / argument).is_file(), (verb, argument)


def is_whole(arguments: list[str]) -> bool:
    """Whether a command is written out: not a verb's name alone, with what is left out, or with a file of the user."""
    own = {"...", "--help", "FILE", *NOT_OURS}
    return bool(arguments) and not own & set(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_that_is_written_out_is_one(page, monkeypatch):
    """As far as its config: nothing is run, and what needs a GPU or a cloud is not asked for."""
    monkeypatch.chdir(ROOT)
    for verb, arguments in commands(page):
        if is_whole(arguments):
            VERBS[verb].config_class.load(arguments)


_CODE_LINE = re.compile(r"^(?: {4})?(?:sa2va-ray|ray|python) .*", re.MULTILINE)
_FOR_GPUS = re.compile(r"(train jobs/configs/octa_|sa2va-ray deploy serve_configs/(one_gpu|autoscale))(?!.*plan=true)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_that_needs_a_gpu_or_a_cloud_says_so(page):
    for line in _CODE_LINE.findall(page.read_text().replace("\\\n", " ")):
        command, _, comment = line.partition("#")
        assert not _FOR_GPUS.search(command) or "GPU" in comment, line
        assert "ray up " not in command or "AWS" in comment, line


def test_commands_are_found_in_the_pages():
    """The test above fails for a wrong key only if it sees the commands."""
    found = {verb for page in PAGES for verb, _ in commands(page)}
    assert found == VERBS.keys()
    assert len([1 for page in PAGES for _, arguments in commands(page) if is_whole(arguments)]) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_other_commands_of_the_console_are_there(page):
    for word in re.findall(r"sa2va-ray ([a-z_]+)", page.read_text()):
        assert word in main.commands, word


TRANSLATED = [
    (ROOT / "README.md", ROOT / "README.zh.md"),
    *((ROOT / "docs/en" / page.name, page) for page in sorted((ROOT / "docs/zh").glob("*.md"))),
]

_HEADING = re.compile(r"^(#+) ", re.MULTILINE)
_ROW = re.compile(r"^\|", re.MULTILINE)
_INDENTED = re.compile(r"^ {4}", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]+`")
_INTO_PAGE = re.compile(r"\]\((?:docs/(?:en|zh)/)?([\w.]+\.md)#")
_NUMBER = re.compile(r"\d[\d.,]*\d|\d")


def shape(page: Path) -> dict[str, object]:
    """What a page has whatever language it is written in, as far as it can be counted."""
    text = page.read_text()
    prose = _BLOCK.sub("", text)
    return {
        "headings": [len(marks) for marks in _HEADING.findall(prose)],
        "rows of tables": len(_ROW.findall(prose)),
        "code blocks": [len(block.splitlines()) for block in _BLOCK.findall(text)],
        "lines of code": len(_INDENTED.findall(prose)),
        "commands": list(commands(page)),
        "code": Counter(_CODE.findall(prose)),
        "images": images(page),
        "links into pages": Counter(_INTO_PAGE.findall(prose)),
        "numbers": Counter(_NUMBER.findall(prose)),
    }


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_chinese_page_says_what_the_english_one_does(english, chinese):
    """When this fails, the English page was edited, and the Chinese one has to follow."""
    found = shape(chinese)
    for what, expected in shape(english).items():
        assert found[what] == expected, what


def test_every_english_page_has_a_chinese_one():
    english, chinese = ({page.name for page in (ROOT / "docs" / language).glob("*.md")} for language in ("en", "zh"))
    assert english == chinese
