"""Which mark a test has, by what it uses, and a guard that a `unit` test starts nothing (tests/README.md)."""

import functools
from typing import Any

import pytest
import ray

CLUSTER_FIXTURES = {"stack", "devtools"}
"""What starts a Ray cluster with its object store, or a browser. All other such fixtures stand on these."""
BY_HAND = ("cluster", "gpu", "soak")

_CURE = "It uses no fixture of the cluster, so it is a `unit` test. Use `ray_cluster`, or mark it @pytest.mark.cluster."
_running: list[pytest.Item] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(name) for name in BY_HAND):
            used = CLUSTER_FIXTURES.intersection(getattr(item, "fixturenames", ()))
            item.add_marker("cluster" if used else "unit")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Any:
    _running[:] = [item]
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Any:
    _running.clear()
    return (yield)


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    if fixturedef.argname in CLUSTER_FIXTURES:
        refuse_in_unit_tests(f"asks for the fixture `{fixturedef.argname}`")


def refuse_in_unit_tests(what: str) -> None:
    for item in _running:
        if item.get_closest_marker("unit"):
            pytest.fail(f"{item.nodeid} {what}. {_CURE}")


def _guarded(init: Any) -> Any:
    @functools.wraps(init)
    def guarded_init(*args: Any, **kwargs: Any) -> Any:
        refuse_in_unit_tests("starts or joins a Ray cluster")
        return init(*args, **kwargs)

    return guarded_init


# For the whole session, and not by a fixture: those of a module are set up before any of a function.
ray.init = _guarded(ray.init)
