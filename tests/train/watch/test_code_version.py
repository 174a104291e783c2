"""Which code a run was made with."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sa2va_ray.train.watch import code_version
from sa2va_ray.train.watch.code_version import code_sha256, git_commit


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a folder of its own, taken for ours."""
    package = tmp_path / "project/sa2va_ray"
    package.mkdir(parents=True)
    (package / "a.py").write_text("A = 1")
    monkeypatch.setattr(code_version, "_PACKAGE_DIR", package)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return package


def check_in(folder: Path) -> None:
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")


def test_a_checkout_has_its_commit(package):
    check_in(package.parent)
    (package.parent / "sheet.png").write_bytes(b"of jobs.preview")
    assert re.fullmatch("[0-9a-f]{40}", git_commit())
    (package / "a.py").write_text("A = 2")
    assert re.fullmatch("[0-9a-f]{40}-dirty", git_commit())


def test_new_code_makes_another_commit_of_it(package):
    check_in(package.parent)
    (package / "b.py").write_text("B = 1")
    assert re.fullmatch("[0-9a-f]{40}-dirty", git_commit())


def test_the_working_directory_of_a_job_has_none_but_the_same_hash(package, tmp_path, monkeypatch):
    before = code_sha256()
    shutil.copytree(package, tmp_path / "other/sa2va_ray")
    monkeypatch.setattr(code_version, "_PACKAGE_DIR", tmp_path / "other/sa2va_ray")
    assert (git_commit(), code_sha256()) == ("unknown", before)
    (tmp_path / "other/sa2va_ray/a.py").write_text("A = 2")
    assert code_sha256() != before


def test_a_submitted_job_has_the_commit_of_the_checkout_that_is_installed_if_the_files_are_the_same(
    package, tmp_path, monkeypatch
):
    class Installed:
        def read_text(self, name):
            return json.dumps({"url": package.parent.as_uri(), "dir_info": {"editable": True}})

    check_in(package.parent)
    monkeypatch.setattr(code_version, "distribution", lambda name: Installed())
    copy = tmp_path / "working_dir/sa2va_ray"
    shutil.copytree(package, copy)
    monkeypatch.setattr(code_version, "_PACKAGE_DIR", copy)
    assert re.fullmatch("[0-9a-f]{40}", git_commit())
    (package / "a.py").write_text("A = 2")
    assert git_commit() == "unknown", "what runs was copied before the checkout was changed"


def test_the_commit_of_another_project_is_not_ours(package, monkeypatch):
    check_in(package.parent)
    installed = package.parent / "venv/site-packages/sa2va_ray"
    shutil.copytree(package, installed)
    monkeypatch.setattr(code_version, "_PACKAGE_DIR", installed)
    assert git_commit() == "unknown"


def test_an_installation_from_git_has_the_commit_that_pip_wrote_down(package, monkeypatch):
    class Installed:
        def read_text(self, name):
            return json.dumps({"url": "https://example.com", "vcs_info": {"vcs": "git", "commit_id": "c" * 40}})

        def locate_file(self, name):
            return package.parent / name

    monkeypatch.setattr(code_version, "distribution", lambda name: Installed())
    assert git_commit() == "c" * 40
    monkeypatch.setattr(code_version, "_PACKAGE_DIR", package.parent / "shipped")
    assert git_commit() == "unknown"
