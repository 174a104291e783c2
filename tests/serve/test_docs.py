"""docs/en/serve_reference.md names what there is: problems, keys of the config, and routes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import sentinel

import pytest
from pydantic import BaseModel

from sa2va_ray.serve.config import BatchingConfig, LimitsConfig, ModelArgs, ServeArgs
from sa2va_ray.serve.guard.fetch import UriPolicy
from sa2va_ray.serve.http.ingress import build_api
from sa2va_ray.serve.retraining import RetrainConfig

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/en/serve_reference.md").read_text()
SOURCES = sorted((ROOT / "sa2va_ray/serve").rglob("*.py"))


def calls(name: str) -> Iterator[ast.Call]:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield node


def texts(node: ast.Call, position: int) -> set[str]:
    return {each.value for each in [node.args[position]] if isinstance(each, ast.Constant)}


def test_every_problem_is_in_the_table_of_errors():
    errors = DOC.split("## Errors")[1]
    titles = set().union(*(texts(call, 1) for call in calls("Problem")))
    titles |= {"Image too large", "Not an image", "Broken image"}  # from a table in http/read/images.py
    assert "Too busy" in titles
    assert titles == set(re.findall(r"`([A-Z][^`]+)`", errors)) - {"Not Found", "Method Not Allowed", "Retry-After"}


@pytest.mark.parametrize("config", [ServeArgs, ModelArgs, BatchingConfig, LimitsConfig, UriPolicy, RetrainConfig])
def test_every_key_is_in_the_table_of_the_configuration(config: type[BaseModel]):
    table = DOC.split("## Configuration")[1].split("## Routes")[0]
    assert not [key for key in config.model_fields if not re.search(rf"[`.]{key}[`.]", table)]


def test_every_route_is_in_the_table_of_routes():
    table = DOC.split("## Routes")[1].split("\n\n")[1]
    named = re.findall(r"(/[\w/.]+)", "\n".join(line.split(" | ")[0] for line in table.splitlines()))
    paths = {path.replace("{name}", "NAME") for path in build_api(sentinel.endpoint).openapi()["paths"]}
    assert "/v1/models/NAME" in paths
    below = tuple(name.removesuffix("...") for name in named if name.endswith("..."))
    assert {path for path in paths if not path.startswith(below)} <= set(named)
