"""Compiled code is loaded from the cache, so it is kept only where nobody else can write."""

import os

import pytest

from sa2va_ray.serve.model.compile_cache import compile_cache


def test_it_is_made_for_its_owner_alone(tmp_path):
    folder = compile_cache(str(tmp_path / "sa2va_ray" / "models"))
    assert folder == str(tmp_path / "sa2va_ray" / "models" / "compiled")
    assert os.stat(folder).st_mode & 0o777 == os.stat(tmp_path / "sa2va_ray").st_mode & 0o777 == 0o700
    assert compile_cache(str(tmp_path / "sa2va_ray" / "models")) == folder


@pytest.mark.parametrize("part", ["shared", "shared/models", "shared/models/compiled"])
def test_where_others_can_write_each_process_has_its_own(tmp_path, part):
    (tmp_path / "shared" / "models" / "compiled").mkdir(parents=True)
    (tmp_path / part).chmod(0o777)
    first, second = (compile_cache(str(tmp_path / "shared" / "models")) for _ in range(2))
    assert first != second
    assert not any(each.startswith(str(tmp_path)) for each in (first, second))
    assert os.stat(first).st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_trusted(tmp_path):
    (tmp_path / "models").mkdir()
    os.chown(tmp_path / "models", 12345, 12345)
    assert not compile_cache(str(tmp_path / "models")).startswith(str(tmp_path))


def test_a_folder_whose_entries_only_their_owners_can_replace_is_fine(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    assert compile_cache(str(tmp_path / "tmp" / "models")).startswith(str(tmp_path))
