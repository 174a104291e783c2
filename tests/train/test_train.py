"""A real run: two workers, ZeRO-3, Ray Data, an S3 store, submitted as a job."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.models.build import PRECISIONS, build_model, weights_sha256
from sa2va_ray.models.checkpoint import TrainState, find_checkpoint
from sa2va_ray.models.lora import make_trainable
from sa2va_ray.telemetry import parse_progress
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.trainer import train
from tests.train.runs import weights_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint_uri(trained):
    return find_checkpoint(trained[0])


@pytest.fixture(scope="module")
def weights(checkpoint_uri):
    return weights_of(checkpoint_uri)


def test_the_workers_see_each_sample_once_and_nothing_twice(trained, checkpoint_uri):
    _, output = trained
    assert "epoch 0: 9 samples seen over 2 workers, as planned" in output
    assert "9 samples x 1 repeats x 1 epochs = 3 steps" in output
    assert "2 workers x 2 micro batch x 1 accumulated = 4" in output
    assert TrainState.model_validate_json(storage.read_bytes(f"{checkpoint_uri}/train_state.json")).samples_seen == 9


def test_progress_can_be_read_from_the_output(trained):
    progress = [found for line in trained[1].splitlines() if (found := parse_progress(line))]
    assert [found for found in progress if found[0] == "train"] == [("train", step, 3) for step in (1, 2, 3)]
    _, done, total = next(found for found in reversed(progress) if found[0] == "validate")
    assert done == total > 0


def test_its_page_is_named_and_says_that_it_has_ended(trained):
    run_uri, output = trained
    assert output.count(f"sa2va-ray open {run_uri}\n") == 2
    page = storage.read_bytes(f"{run_uri}/run.html").decode()
    assert "<strong>Ended well</strong> after 3 steps" in page
    assert page.count("data:image/webp;base64,") == 3
    assert json.loads(storage.read_bytes(f"{run_uri}/run.json"))["state"]["name"] == "ended"


@pytest.mark.parametrize("noise", ["TrainingReport", "PreemptionWatcher", "Execution plan", "TrainStateActor"])
def test_lines_that_tell_a_user_nothing_are_not_in_the_output(trained, noise):
    assert noise not in trained[1]


def test_a_checkpoint_holds_what_its_contract_says(checkpoint_uri, prepared_uri):
    assert checkpoint_uri.endswith("/step_00000003")
    files = set(read_manifest(checkpoint_uri)["files"])
    shards = {f"{kind}-0000{rank}-of-00002.safetensors" for kind in ("model", "optimizer") for rank in (1, 2)}
    assert files == {*shards, "train_state.json", "config.yaml"}
    state = json.loads(storage.read_bytes(f"{checkpoint_uri}/train_state.json"))
    assert state["step"] == 3
    assert state["data_sha256"] == digest(read_manifest(prepared_uri))
    assert {"train/loss", "train/loss_mask", "train/loss_dice", "train/loss_language", "train/lr"} <= set(
        state["metrics"]
    )


def test_its_config_builds_the_same_base(checkpoint_uri):
    config = TrainConfig.parse(yaml.safe_load(storage.read_bytes(f"{checkpoint_uri}/config.yaml")))
    state = TrainState.model_validate_json(storage.read_bytes(f"{checkpoint_uri}/train_state.json"))
    assert weights_sha256(build_model(config.model, PRECISIONS[state.precision])[0].state_dict()) == state.base_sha256


def test_every_trained_tensor_is_there_and_has_moved(checkpoint_uri, weights):
    config = TrainConfig.parse(yaml.safe_load(storage.read_bytes(f"{checkpoint_uri}/config.yaml")))
    model, processor = build_model(config.model)
    make_trainable(model, processor, config.model.trainable)
    before = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    assert before.keys() == weights.keys()
    assert all(weights[name].shape == tensor.shape for name, tensor in before.items())
    # LoRA's A gets no gradient in the first step, since B starts at zero; then it has one.
    assert [name for name, tensor in before.items() if weights[name].equal(tensor)] == []


def test_the_optimizer_state_is_whole(checkpoint_uri, weights):
    moments = weights_of(checkpoint_uri, "optimizer")
    assert moments.keys() == {f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in weights}
    assert all(moments[f"exp_avg_sq.{name}"].shape == tensor.shape for name, tensor in weights.items())
    assert all((tensor >= 0).all() for name, tensor in moments.items() if name.startswith("exp_avg_sq."))


def test_tensorboard_files_are_in_the_run(trained):
    assert [name for name in storage.list_files(f"{trained[0]}/tensorboard") if "tfevents" in name]


@pytest.mark.soak
def test_started_by_hand_it_is_the_same_job(stack, tiny_run, weights):
    """Without `ray job submit`, on the same cluster: the same samples, steps and weights, bit by bit."""
    command = [sys.executable, "-m", "jobs.train", *tiny_run, "name=by-hand"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    uri = re.search(r"trained: checkpoint (s3://\S+)", done.stderr)[1]
    by_hand = weights_of(uri)
    assert [name for name, tensor in weights.items() if not tensor.equal(by_hand[name])] == []


def test_a_run_is_not_written_over(trained, tiny_run):
    with pytest.raises(UserError, match="A run is already in"):
        train(TrainConfig.load([*tiny_run, "name=submitted", "resume=never"]))


def test_a_finished_run_is_left_as_it_is(trained, tiny_run, checkpoint_uri):
    assert train(TrainConfig.load([*tiny_run, "name=submitted"])) == checkpoint_uri


def test_a_cluster_that_is_too_small_is_told_before_it_waits(ray_cluster, tiny_run):
    with pytest.raises(UserError, match=r"wants 10\.5 CPU .* the cluster has 4"):
        train(TrainConfig.load([*tiny_run, "name=large", "num_workers=2", "cpus_per_worker=5"]))
