"""Imports without the garbage collector, and without a library that is not wanted."""

import gc
import sys
from contextlib import suppress
from importlib import import_module

import pytest

from sa2va_ray.interpreter import importing


def test_the_collector_runs_again_behind_the_imports_and_leaves_what_they_made_alone():
    frozen = gc.get_freeze_count()
    try:
        was_enabled = True
        with suppress(ImportError), importing():
            was_enabled = gc.isenabled()
            raise ImportError
        assert not was_enabled
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()


def test_the_collector_runs_again_where_a_library_made_it_importable_by_itself():
    with importing(without="this"):
        del sys.modules["this"]
    assert gc.isenabled()
    gc.unfreeze()


def test_a_library_that_is_not_wanted_fails_to_import_and_only_there(monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with importing(without="this"), pytest.raises(ImportError):
        import_module("this")
    with importing(without="json"):  # which is there already
        import json
    assert "this" not in sys.modules
    assert sys.modules["json"] is json
    gc.unfreeze()
