"""Every YAML that we ship is what its reader expects."""

import re
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from sa2va_ray.baselines.config import BaselineConfig
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.train.config import TrainConfig

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "jobs/configs").glob("*.yaml")), ids=lambda path: path.name)
def test_job_configs_are_what_their_job_takes(path):
    """Alone, or over the file that its first line names."""
    config_class = BaselineConfig if path.name.startswith("baseline_") else TrainConfig
    below = re.match(r"# (\w+\.yaml) ", path.read_text())
    files = [path.with_name(below[1]), path] if below else [path]
    assert config_class.load([str(file) for file in files]).name
    if below:
        assert f"jobs/configs/{below[1]} jobs/configs/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "serve_configs").glob("*.yaml")), ids=lambda path: path.name)
def test_serve_configs_deploy_our_app(path):
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert schema.http_options.host == "127.0.0.1"
    for application in schema.applications:
        assert application.import_path == "sa2va_ray.serve.app:build_app"
        ServeArgs.parse(application.args)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("[!_]*.py")), ids=lambda path: path.name)
def test_jobs_parse_build_and_call_only(path):
    assert len(path.read_text().splitlines()) <= 35
