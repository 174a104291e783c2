"""What a run leaves behind, read back with the readers of TensorBoard and MLflow and from Ray's own metrics."""

import importlib.util
import json
import logging
import re
import threading

import numpy as np
import pytest
import ray.util.metrics
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.data.batch import Batch
from sa2va_ray.metrics import VALIDATION_METRICS
from sa2va_ray.storage import StorageError
from sa2va_ray.telemetry import LOGGER, parse_progress
from sa2va_ray.train.checkpoints.changes import SettingChange
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.plan.flops import FlopCounts
from sa2va_ray.train.plan.sizes import ParameterGroup
from sa2va_ray.train.step import MicroBatch, StepResult
from sa2va_ray.train.validation.validate import ValidationResult
from sa2va_ray.train.watch import reporter
from sa2va_ray.train.watch.rates import StepTiming
from sa2va_ray.train.watch.reporter import Reporter
from sa2va_ray.train.watch.run_facts import collect_run_facts
from sa2va_ray.train.watch.trackers.registry import TRACKERS, check_trackers

pytestmark = pytest.mark.usefixtures("one_rank")

CPU = torch.device("cpu")
LOSSES = {"loss_language": 0.5, "loss_mask": 1.0, "loss_dice": 0.25, "loss": 1.75}
TIMING = StepTiming(data_wait_s=0.1, step_s=1.9)
FLOPS = FlopCounts(0.0, 0.0, 0.0, 0.0, per_image=3e12, per_object=0.0)
NUM_STEPS = 40


@pytest.fixture
def lines(caplog, monkeypatch):
    """Log lines so far."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def config(tmp_path):
    return TrainConfig(
        name="run", data_uri="data", runs_uri=str(tmp_path), model={"architecture": {}}, use_gpu=False, num_workers=1
    )


@pytest.fixture
def known_device(monkeypatch):
    """As if the CPU were a device with a known peak."""
    monkeypatch.setattr(reporter, "device_peak", lambda device, precision: 10e12)


def facts_of(config, step=0, changes=()):
    return collect_run_facts(
        config,
        precision="fp32",
        commit="abc",
        data_sha256="d",
        base_sha256="b",
        parameters=[ParameterGroup("LoRA adapters", 100, 100), ParameterGroup("vision encoder", 900, 0)],
        num_steps=NUM_STEPS,
        step=step,
        changes=changes,
    )


@pytest.fixture
def start(config):
    """Starts the run of `config` at a step; closes what it has started."""
    started = []

    def start(step=0, flop_counts=None, changes=(), **update):
        run = config.model_copy(update=update)
        started.append(Reporter(run, NUM_STEPS, step, flop_counts, facts_of(run, step, changes), CPU))
        return started[-1]

    yield start
    for each in started:
        each.close()


def micro_batches(num_samples=2):
    batch = Batch(
        input_ids=torch.zeros(num_samples, 4, dtype=torch.int64),
        attention_mask=torch.ones(num_samples, 4, dtype=torch.bool),
        labels=torch.zeros(num_samples, 4, dtype=torch.int64),
        pixel_values=torch.zeros(num_samples, 3, 4, 4, dtype=torch.uint8),
        num_tiles=torch.ones(num_samples, dtype=torch.int64),
        grounding_pixel_values=torch.zeros(num_samples, 3, 4, 4, dtype=torch.uint8),
        masks=[torch.zeros(1, 4, 4, dtype=torch.bool)] * num_samples,
        ignored=[torch.zeros(0, 4, 4, dtype=torch.bool)] * num_samples,
        sample_ids=["s"] * num_samples,
    )
    return [MicroBatch(batch, seed=0), MicroBatch(None, seed=1)]


def record(reporter, steps, timing=TIMING, num_skipped=0, loss=1.75):
    result = StepResult(LOSSES | {"loss": loss}, 2, num_skipped, [], num_tokens=800, grad_norm=0.75)
    for step in steps:
        metrics = reporter.record(step, result, 1e-5, timing, micro_batches())
    return metrics


def events(config):
    read = EventAccumulator(str(f"{config.runs_uri}/run/tensorboard"))
    return read.Reload()


def test_the_line_has_all_that_a_watcher_wants(start, known_device, lines):
    reporter = start(flop_counts=FLOPS)
    record(reporter, [1], StepTiming(0.0, 100.0))  # slow, as the first one is
    record(reporter, range(2, 11))
    reporter.saved(2.0)
    record(reporter, range(11, 21))
    first, second = (line for line in lines() if parse_progress(line))
    assert parse_progress(first) == ("train", 10, 40)
    memory = re.search(r"peak (\d+\.\d) GiB", second)
    assert 0 < float(memory[1]) < 50
    assert second == (
        "progress train 20/40 loss 1.7500 (language 0.5000, mask 1.0000, dice 0.2500) | lr 1.00e-05 | grad norm 0.75 | "
        f"1.00 samples/s | 400 tokens/s | MFU 30.0% | {memory[0]} | data wait 5.0% | checkpoints 1.4% | 0:00:42 left"
    )


def test_without_a_known_peak_there_is_no_mfu(start, lines):
    metrics = record(start(flop_counts=FLOPS), range(1, 11))
    assert "throughput/mfu" not in metrics
    assert "| MFU - |" in next(line for line in lines() if parse_progress(line))


def test_metrics_of_a_step_have_the_agreed_names(start, known_device):
    assert set(record(start(flop_counts=FLOPS), range(1, 11), num_skipped=2)) == {
        "train/loss",
        "train/loss_language",
        "train/loss_mask",
        "train/loss_dice",
        "train/lr",
        "train/grad_norm",
        "train/skipped_samples",
        "throughput/samples_per_s",
        "throughput/tokens_per_s",
        "throughput/mfu",
        "memory/peak_gib",
        "time/data_wait_share",
        "time/checkpoint_share",
        "time/left_s",
    }


def test_curves_pictures_and_warnings_are_in_tensorboard(start, config, lines):
    reporter = start()
    record(reporter, range(1, 21), num_skipped=1)
    metrics = {f"val/{name}": 0.5 for name in (*VALIDATION_METRICS, "seg_share")}
    metrics |= {"val/dice_low": 0.4, "val/dice_high": 0.6}
    picture = np.zeros((4, 6, 3), np.uint8)
    reporter.validating(20)
    assert "validating after step 20; training waits for it" in lines()
    assert reporter.validation(20, ValidationResult(metrics, {}, {"sample": picture}), 1.0) == metrics
    assert any(line.startswith("validation after step 20, 1 s: ") for line in lines())
    reporter.warn(20, "mind the step")
    reporter.close()
    read = events(config)
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(10, 1.75), (20, 1.75)]
    assert [event.value for event in read.Scalars("train/skipped_samples")] == [10, 20]
    assert [event.step for event in read.Scalars("val/dice")] == [20]
    assert [(event.width, event.height) for event in read.Images("val/sample")] == [(6, 4)]
    [text] = read.Tensors("warnings/text_summary")
    assert b"mind the step" in text.tensor_proto.string_val[0]
    assert any("dice 0.500 (0.400 to 0.600), iou 0.500" in line and "[SEG] in 50%" in line for line in lines())
    assert "step 20: mind the step" in lines()


def test_a_run_that_goes_on_replaces_what_lies_after_its_checkpoint(start, config):
    first = start()
    record(first, range(1, 31), loss=1.0)
    first.warn(25, "early")
    first.close()
    second = start(step=20, changes=[SettingChange("num_workers", 1, 2)], num_workers=2)
    record(second, range(21, 41), loss=2.0)
    second.close()
    scalars = [(event.step, event.value) for event in events(config).Scalars("train/loss")]
    assert scalars == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]
    facts = json.loads(storage.read_bytes(f"{config.runs_uri}/run/run.json"))
    assert [(attempt["step"], attempt["num_workers"]) for attempt in facts["attempts"]] == [(0, 1), (20, 1)]
    assert facts["warnings"] == [{"step": 25, "message": "early"}]
    assert [attempt["config"]["num_workers"] for attempt in facts["attempts"]] == [1, 2]
    assert [attempt["changes"] for attempt in facts["attempts"]] == [
        [],
        [{"key": "num_workers", "before": 1, "after": 2}],
    ]


def test_the_page_of_a_run_that_goes_on_shows_one_curve_and_the_last_validation(start, config):
    metrics = {f"val/{name}": 0.5 for name in (*VALIDATION_METRICS, "seg_share")}
    picture = np.full((4, 6, 3), 90, np.uint8)
    first = start()
    record(first, range(1, 21), loss=1.0)
    first.validating(20)
    first.validation(20, ValidationResult(metrics, {}, {"0a1b": picture}), 1.0)
    first.saved(1.0)
    record(first, range(21, 31), loss=1.0)
    first.close()
    second = start(step=20)
    record(second, range(21, 41), loss=2.0)
    second.close()
    rows = [json.loads(line) for line in storage.read_bytes(f"{config.runs_uri}/run/history.jsonl").splitlines()]
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [
        (10, 1.0),
        (20, 1.0),
        (30, 2.0),
        (40, 2.0),
    ]
    assert [row["step"] for row in rows if "val/dice" in row] == [20]
    page = storage.read_bytes(f"{config.runs_uri}/run/run.html").decode()
    assert "Validation after step 20" in page
    assert "0a1b" in page
    assert "started again at 20" in page
    state = json.loads(storage.read_bytes(f"{config.runs_uri}/run/run.json"))["state"]
    assert (state["name"], state["step"]) == ("training", 40)


def test_a_run_that_is_killed_keeps_what_came_before_its_checkpoint(start, config, monkeypatch):
    """Also where the validation was still being sent when the checkpoint came."""
    slow, upload = threading.Event(), storage.upload_folder
    monkeypatch.setattr(storage, "upload_folder", lambda *args, **kwargs: slow.wait(60) and upload(*args, **kwargs))
    reporter = start()
    record(reporter, range(1, 21))
    metrics = {f"val/{name}": 0.5 for name in (*VALIDATION_METRICS, "seg_share")}
    reporter.validation(20, ValidationResult(metrics, {}, {}), 1.0)
    reporter.saved(1.0)
    slow.set()
    assert reporter._output._curves.wait(60)
    assert reporter._output._page.wait(60)
    assert [event.step for event in events(config).Scalars("val/dice")] == [20]
    rows = [json.loads(line) for line in storage.read_bytes(f"{config.runs_uri}/run/history.jsonl").splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 20]


def test_run_facts_that_are_cut_off_are_begun_anew_and_kept(start, config):
    uri = f"{config.runs_uri}/run/run.json"
    storage.write_bytes(uri, b'{"attempts": [')
    start()
    assert len(json.loads(storage.read_bytes(uri))["attempts"]) == 1
    assert storage.read_bytes(f"{uri}.damaged") == b'{"attempts": ['


def test_run_facts_name_code_versions_and_data(start, config):
    start()
    facts = json.loads(storage.read_bytes(f"{config.runs_uri}/run/run.json"))
    assert TrainConfig.parse(facts["config"]) == config
    assert (facts["seed"], facts["data_sha256"], facts["base_sha256"]) == (0, "d", "b")
    [attempt] = facts["attempts"]
    assert attempt["versions"]["torch"] == torch.__version__
    assert re.fullmatch("[0-9a-f]{64}", attempt["code_sha256"])
    assert len(attempt["devices"]) == 1


def test_a_store_that_does_not_answer_holds_nothing_up(start, config, lines, monkeypatch):
    reporter = start()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload_folder", lambda *_, **__: (_ for _ in ()).throw(StorageError("no answer")))
        record(reporter, range(1, 11))
        reporter._output._curves.wait(60)
    assert "curves are sent again later: no answer" in lines()
    assert not storage.exists(f"{config.runs_uri}/run/tensorboard")
    reporter.close()
    assert [event.step for event in events(config).Scalars("train/loss")] == [10]


def test_the_dashboard_gets_the_same_names(start, monkeypatch):
    seen = {}
    reporter = start()

    def write_down(gauge, value, tags):
        seen[gauge.info["name"]] = (value, tags)

    monkeypatch.setattr(ray.util.metrics.Gauge, "set", write_down)
    metrics = record(reporter, range(1, 11))
    assert set(seen) == {f"sa2va_{name.replace('/', '_')}" for name in metrics}
    assert seen["sa2va_train_loss"] == (1.75, {"run": "run"})


def test_mlflow_gets_the_same_names_and_goes_on(start, config, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server wants more packages than its client has
    for step in (0, 20):
        reporter = start(step=step, trackers=("mlflow",))
        record(reporter, range(step + 1, step + 21))
        reporter.close()
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("sa2va_ray").experiment_id])
    assert run.data.tags["data_sha256"] == "d"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, 1.75) for step in (10, 20, 30, 40)]


def test_an_mlflow_that_does_not_answer_holds_nothing_up(start, config, lines, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    reporter = start(trackers=("tensorboard", "mlflow"))
    record(reporter, range(1, 11))
    reporter.close()
    assert any("MLflow does not take the curves" in line for line in lines())
    assert [event.step for event in events(config).Scalars("train/loss")] == [10]


def test_mlflow_that_is_not_installed_is_found_before_the_run(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Install sa2va-ray\[mlflow\]"):
        check_trackers(("tensorboard", "mlflow"))


def test_a_config_may_name_every_tracker(config):
    values = config.model_dump()
    assert TrainConfig.parse({**values, "trackers": list(TRACKERS)}).trackers == tuple(TRACKERS)
    with pytest.raises(UserError, match="'tensorboard'"):
        TrainConfig.parse({**values, "trackers": ["ray"]})
