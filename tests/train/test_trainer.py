"""What the driver refuses before it starts workers."""

import json
import logging
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from sa2va_ray.cluster.resources import least_gpu_bytes
from sa2va_ray.config import UserError
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train import trainer
from sa2va_ray.train.plan.table import GIB
from tests.train.saved_runs import DATA_MANIFEST, run_config


@pytest.fixture
def cluster_of_small_gpus(monkeypatch):
    """The driver's view of a cluster whose GPUs have 1 GiB each; it fails where workers would be started."""
    for name in ("connect", "check_cluster", "check_paths"):
        monkeypatch.setattr(trainer, name, lambda *arguments, **paths: None)
    monkeypatch.setattr(trainer, "least_gpu_bytes", lambda waits: GIB)
    monkeypatch.setattr(trainer, "_gpus_of_a_plan", lambda config: (True, GIB))
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


def test_a_plan_is_that_of_the_run_where_no_gpu_can_be_asked(ray_cluster, messages, tmp_path, data_uri, monkeypatch):
    """All GPUs of the cluster are at work for other jobs: it waited for them without a word. Where none is up yet, and
    the autoscaler may start some, it was for CPUs."""
    monkeypatch.setattr(trainer, "decide_use_gpu", lambda use_gpu: True)
    monkeypatch.setattr(trainer, "_PLAN_WAITS_S", 1.0)
    monkeypatch.setattr(trainer, "least_gpu_bytes", lambda waits, patience_s: least_gpu_bytes(True, patience_s))
    config = run_config(tmp_path / "runs", f"data_uri={data_uri}", "plan=true", "precision=auto")
    assert trainer.train(config.model_copy(update={"use_gpu": None})) is None
    assert "1 of 1 node(s) with GPUs did not tell the memory of one within 1 s" in messages(logging.WARNING)[0]
    (told,) = [message for message in messages(logging.INFO) if message.startswith("plan of the run")]
    assert "CUDA and NCCL" in told


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


@pytest.fixture
def interruptible():
    """Whoever started these tests in the background has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_thread_that_trains_takes_no_signals():
    """Python lets the main thread alone handle them: a run of a notebook's or a service's thread ended in an error."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: trainer._sigterm_is_sigint().__enter__()).result() is None
    before = signal.getsignal(signal.SIGTERM)
    with trainer._sigterm_is_sigint(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
