"""What the driver refuses before it starts workers, and what a run that has ended tells of its cause."""

import json
import logging

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train import trainer
from sa2va_ray.train.plan.table import GIB
from sa2va_ray.train.trainer import _cause
from tests.train.saved_runs import DATA_MANIFEST, run_config

_OUT_OF_MEMORY = """1 worker(s) failed
ray.exceptions.OutOfMemoryError: 2 worker(s) were killed due to the node running low on memory.
Memory on the node (IP: 192.0.2.2, ID: 97f3) was 22.31GB used / 23.48GB limit (0.950170)
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io."""


def test_a_worker_that_was_killed_for_memory_is_told_as_that():
    told = _cause(RuntimeError(_OUT_OF_MEMORY))
    assert "22.31GB of its node's 23.48GB of memory were in use" in told
    assert "documentation" not in told


def test_other_causes_are_the_last_line():
    assert _cause(RuntimeError("Traceback ...\n\n  ValueError: 3 of 4  \n")) == "ValueError: 3 of 4"
    assert _cause(RuntimeError()) == "RuntimeError"


@pytest.fixture
def cluster_of_small_gpus(monkeypatch):
    """The driver's view of a cluster whose GPUs have 1 GiB each; it fails where workers would be started."""
    for name in ("connect", "check_cluster", "check_paths"):
        monkeypatch.setattr(trainer, name, lambda *arguments, **paths: None)
    monkeypatch.setattr(trainer, "least_gpu_bytes", lambda waits: GIB)
    monkeypatch.setattr(trainer, "_gpu_bytes_for_a_plan", lambda config: GIB)
    monkeypatch.setattr(trainer, "_fit", lambda *arguments: pytest.fail("workers are started"))


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.fixture
def data_uri(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/manifest.json").write_text(json.dumps(DATA_MANIFEST))
    return tmp_path / "data"


def train_with(tmp_path, data_uri, *settings):
    return trainer.train(run_config(tmp_path / "runs", f"data_uri={data_uri}", "use_gpu=true", *settings))


@pytest.mark.parametrize("strategy", ["auto", "zero3"])
def test_a_run_that_does_not_fit_ends_before_a_worker_starts(cluster_of_small_gpus, tmp_path, data_uri, strategy):
    with pytest.raises(
        UserError, match=r"does not fit .* there are 0\.9 GiB .* force=true starts the run all the same"
    ):
        train_with(tmp_path, data_uri, f"strategy={strategy}")


def test_force_starts_it_with_a_warning(cluster_of_small_gpus, messages, tmp_path, data_uri):
    with pytest.raises(pytest.fail.Exception, match="workers are started"):
        train_with(tmp_path, data_uri, "force=true")
    (warning,) = messages(logging.WARNING)
    assert warning.startswith("started by force=true: The run does not fit")


def test_a_sample_that_is_too_long_ends_it_before_a_worker_starts(cluster_of_small_gpus, tmp_path, data_uri):
    with pytest.raises(
        UserError, match=r"can have \d\d tokens, pipeline\.max_length is 20\. Set pipeline\.max_length="
    ):
        train_with(tmp_path, data_uri, "pipeline.max_length=20", "force=true")


def test_a_plan_alone_only_tells(cluster_of_small_gpus, messages, tmp_path, data_uri):
    assert train_with(tmp_path, data_uri, "pipeline.max_length=20", "strategy=auto", "plan=true") is None
    too_long, too_large = messages(logging.WARNING)
    assert "pipeline.max_length is 20" in too_long
    assert "does not fit" in too_large
    (told,) = [message for message in messages(logging.INFO) if message.startswith("plan of the run")]
    assert "largest sample of this data set" in told
    assert not (tmp_path / "runs").exists()


def test_a_plan_needs_no_data_and_says_what_it_is_for(cluster_of_small_gpus, messages, tmp_path):
    assert train_with(tmp_path, tmp_path / "nothing", "pipeline.max_length=300", "plan=true") is None
    (no_data, _) = messages(logging.WARNING)
    assert "no data set at data_uri yet: the plan is for the 300 tokens of pipeline.max_length" in no_data
    (told,) = [message for message in messages(logging.INFO) if message.startswith("plan of the run")]
    assert "longest sequence that the config lets through" in told
    assert "steps:" not in told


def test_a_run_needs_data(cluster_of_small_gpus, tmp_path):
    with pytest.raises(UserError, match="not a complete prepared data set"):
        train_with(tmp_path, tmp_path / "nothing")


@pytest.mark.parametrize("counts", [None, [], "x", {}, {"train": None}, {"train": {}}, {"train": {"samples": "many"}}])
def test_a_manifest_that_counts_no_samples_is_called_damaged(cluster_of_small_gpus, tmp_path, counts):
    data = tmp_path / "data"
    data.mkdir()
    (data / "manifest.json").write_text(json.dumps({**DATA_MANIFEST, "counts": counts}))
    with pytest.raises(
        UserError, match=r"does not count the samples of its split 'train'.* Prepare the data set again"
    ):
        trainer.train(run_config(tmp_path / "runs", f"data_uri={data}", "plan=true"))
