"""`import sa2va_ray` costs nothing, and has what programs use."""

import subprocess
import sys
from importlib.resources import files

import pytest

import sa2va_ray


def test_import_brings_nothing_heavy():
    code = "import sys, sa2va_ray; print(sorted({'torch', 'ray', 'numpy', 'httpx', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sa2va_ray.__all__)
def test_a_name_is_the_one_of_its_module(name):
    found = getattr(sa2va_ray, name)
    assert found is getattr(sys.modules[found.__module__], name)
    assert name in dir(sa2va_ray)


def test_any_other_name_is_an_error():
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = sa2va_ray.nothing_of_ours


def test_type_checkers_are_told_that_it_is_typed():
    assert files(sa2va_ray).joinpath("py.typed").is_file()
